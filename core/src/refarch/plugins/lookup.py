"""Look up what a pipeline names, once: options and training fields decided, techniques bound, the backbone located.

Needs no torch, so that ``refarch run --dry-run`` checks a pipeline at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from refarch.architecture import (
    BackboneChoice,
    ConfiguredTechnique,
    ModelSpec,
    PipelineSpec,
    TaskSpec,
    TechniqueChoice,
    TrainingSpec,
)
from refarch.errors import UsageError
from refarch.plugins.discovery import Found
from refarch.plugins.registry import Registry, resolve


class NamedTechnique(NamedTuple):
    """A technique of a pipeline, looked up and bound."""

    label: str
    """The name that its adaptation gets."""
    technique: ConfiguredTechnique
    source: Found
    """The plugin that it was taken from."""
    start: str | None
    """The folder of the saved adaptation whose values it starts from."""


class ResolvedPipeline(NamedTuple):
    """A pipeline with its names looked up and its options decided, once: what is handed on, and not asked again."""

    pipeline: PipelineSpec
    """The same pipeline in plain data, every option and training field written out."""
    task: TaskSpec
    techniques: tuple[NamedTechnique, ...]


def look_up(pipeline: PipelineSpec | ResolvedPipeline, registry: Registry) -> ResolvedPipeline:
    """Everything that a pipeline names; one that is looked up already is given back as it is.

    Training fields come from the spec's defaults, then the task, then the techniques, then the pipeline itself.

    Raises:
        UnknownNameError: a plugin is not installed.
        SpecError: an option is misspelt or has a wrong value.
        UsageError: two techniques have one name.
    """
    if isinstance(pipeline, ResolvedPipeline):
        return pipeline
    task = registry.task(pipeline.task.name)
    techniques = _techniques(pipeline, registry)
    training: dict[str, Any] = dict(task.training)
    for named in techniques:
        training |= named.technique.technique.training
    own = {name: getattr(pipeline.training, name) for name in pipeline.training.model_fields_set}
    decided = pipeline.model_copy(
        update={
            "task": pipeline.task.model_copy(update={"options": task.configure(pipeline.task.options)}),
            "techniques": tuple(map(_written_out, pipeline.techniques, techniques)),
            "training": TrainingSpec.parse({**training, **own}, "training"),
        }
    )
    return ResolvedPipeline(decided, task, techniques)


def resolve_pipeline(pipeline: PipelineSpec, registry: Registry) -> PipelineSpec:
    """The same pipeline with every option and training field decided; raises as :func:`look_up` does."""
    return look_up(pipeline, registry).pipeline


def configured(pipeline: PipelineSpec, registry: Registry) -> list[tuple[str, ConfiguredTechnique]]:
    """Label and decided spec of each technique, in order, whatever the task is; raises as :func:`look_up` does."""
    return [(named.label, named.technique) for named in _techniques(pipeline, registry)]


def _techniques(pipeline: PipelineSpec, registry: Registry) -> tuple[NamedTechnique, ...]:
    found: dict[str, NamedTechnique] = {}
    for choice in pipeline.techniques:
        technique = registry.technique(choice.name).configure(choice.options)
        label = choice.label or choice.name
        if label in found:
            raise UsageError(f"two techniques are named {label!r}", "give each a 'label' of its own")
        found[label] = NamedTechnique(label, technique, registry.find("technique", choice.name), choice.start)
    return tuple(found.values())


def _written_out(choice: TechniqueChoice, named: NamedTechnique) -> TechniqueChoice:
    """The choice with every option's value; where it works and from which preset stays as it was chosen."""
    special = {key: choice.options[key] for key in ("slots", "layers", "preset") if key in choice.options}
    return choice.model_copy(update={"options": {**named.technique.options, **special}})


def locate(choice: BackboneChoice, registry: Registry) -> str:
    """A local folder or a hub id for a backbone's name.

    Raises:
        UsageError: it is a family, not a model; or a path that does not exist.
    """
    if any((item.kind, item.name) == ("backbone", choice.name) for item in registry.found):  # even if blocked
        spec = registry.backbone(choice.name)
        if isinstance(spec, ModelSpec):
            return str(resolve(spec.source)())
        if not Path(choice.name).is_dir():
            models = ", ".join(model.name for model in registry.models()) or "none"
            raise UsageError(
                f"{choice.name!r} is a backbone family (a table of slots), not a pretrained model",
                f"give a local folder, a hub id, or an installed model: {models}",
            )
    path = Path(choice.name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(
                f"the folder {choice.name!r} holds no config.json", "give a folder in transformers' layout"
            )
        return str(path)
    if choice.name.startswith((".", "/", "~")) or choice.name.count("/") > 1:
        raise UsageError(f"there is no folder {choice.name!r}", "give a folder in transformers' layout, or a hub id")
    return choice.name
