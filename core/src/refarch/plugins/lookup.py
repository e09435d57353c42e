"""Look up what a pipeline names: options and training fields decided, techniques bound, the backbone located.

Needs no torch, so that ``refarch run --dry-run`` checks a pipeline at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refarch.architecture import BackboneChoice, ConfiguredTechnique, ModelSpec, PipelineSpec, TrainingSpec
from refarch.errors import UsageError
from refarch.plugins.registry import Registry, resolve


def resolve_pipeline(pipeline: PipelineSpec, registry: Registry) -> PipelineSpec:
    """The same pipeline with every option and training field decided. Needs no torch.

    Training fields come from the spec's defaults, then the task, then the techniques, then the pipeline itself.

    Raises:
        UnknownNameError: a plugin is not installed.
        SpecError: an option is misspelt or has a wrong value.
    """
    task = registry.task(pipeline.task.name)
    training: dict[str, Any] = dict(task.training)
    techniques = []
    for choice in pipeline.techniques:
        spec = registry.technique(choice.name)
        training |= spec.training
        configured = spec.configure(choice.options)
        special = {key: choice.options[key] for key in ("slots", "layers", "preset") if key in choice.options}
        techniques.append(choice.model_copy(update={"options": {**configured.options, **special}}))
    own = {name: getattr(pipeline.training, name) for name in pipeline.training.model_fields_set}
    return pipeline.model_copy(
        update={
            "task": pipeline.task.model_copy(update={"options": task.configure(pipeline.task.options)}),
            "techniques": tuple(techniques),
            "training": TrainingSpec.parse({**training, **own}, "training"),
        }
    )


def configured(pipeline: PipelineSpec, registry: Registry) -> list[tuple[str, ConfiguredTechnique]]:
    """Label and decided spec of each technique, in order."""
    found: list[tuple[str, ConfiguredTechnique]] = []
    for choice in pipeline.techniques:
        label = choice.label or choice.name
        if label in {name for name, _ in found}:
            raise UsageError(f"two techniques are named {label!r}", "give each a 'label' of its own")
        found.append((label, registry.technique(choice.name).configure(choice.options)))
    return found


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
