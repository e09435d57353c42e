"""From a pipeline spec to things that exist: defaults filled in, names looked up, model and tokenizer loaded."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from refarch.architecture import (
    BackboneChoice,
    ConfiguredTechnique,
    ModelSpec,
    PipelineSpec,
    Seeds,
    TaskSpec,
    TrainingSpec,
)
from refarch.errors import UsageError, did_you_mean
from refarch.plugins import Registry, resolve


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


def seeds(run: int) -> Seeds:
    """The seeds of one run. Techniques that share a run seed share head initialisation and data order."""
    head, modules, data = (int(value) for value in np.random.SeedSequence(run).generate_state(3) % 2**31)
    return Seeds(run=run, head=head, modules=modules, data=data)


def locate(choice: BackboneChoice, registry: Registry) -> str:
    """A local folder or a hub id for a backbone's name.

    Raises:
        UsageError: it is a family, not a model; or a path that does not exist.
    """
    if choice.name in registry.names("backbone"):
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


def load_backbone(
    choice: BackboneChoice, task: TaskSpec, arguments: dict[str, Any], registry: Registry, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model with the task's head, and tokenizer. A new head's values depend on ``seed`` alone.

    Raises:
        UsageError: neither a model plugin, a folder, nor a hub id that can be reached.
    """
    source = locate(choice, registry)
    common: dict[str, Any] = {"trust_remote_code": choice.trust_remote_code, "revision": choice.revision or "main"}
    auto_class = getattr(transformers, task.auto_class)
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **common)
            torch.manual_seed(seed)
            model = auto_class.from_pretrained(
                source, dtype=choice.dtype or "auto", **common, **choice.config, **arguments
            )
        except (OSError, ValueError) as error:
            names = [spec.name for spec in registry.models()]
            raise UsageError(
                f"the backbone {choice.name!r} cannot be loaded: {str(error).splitlines()[0]}",
                f"give a local folder, a hub id that can be reached from here, or an installed model;"
                f" {did_you_mean(choice.name, names)}",
            ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from reporting what a run expects: a head that is new, weights being read."""
    from transformers.utils import logging as hf

    level, bars = hf.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity(logging.ERROR)
    hf.disable_progress_bar()
    try:
        yield
    finally:
        hf.set_verbosity(level)
        if bars:
            hf.enable_progress_bar()
