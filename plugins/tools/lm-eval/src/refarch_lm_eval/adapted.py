"""What a folder holds: a finished run, or a saved adaptation; and the model that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from refarch import PipelineSpec, Registry, RunFolder, TaskSpec, pipeline as pipelines
from refarch.architecture import BackboneChoice
from refarch.errors import UsageError
from refarch.files import read_json
from refarch.plugins import locate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CLASSES = {"decoder": "AutoModelForCausalLM", "encoder-decoder": "AutoModelForSeq2SeqLM"}
"""The auto class of a language model by the kind of its backbone."""
ADAPTATION = "adaptation.json"


@dataclass(frozen=True)
class Saved:
    """What is to be evaluated.

    Attributes:
        backbone: which model, and how it is loaded.
        folders: of its adaptations, in the order in which they are attached.
    """

    backbone: BackboneChoice
    folders: tuple[Path, ...]


def find(folder: Path, backbone: str | None, registry: Registry) -> Saved:
    """What a folder holds.

    Args:
        folder: a finished run's, or an adaptation's.
        backbone: instead of the run's own; needed for an adaptation that lies in no run's folder.
        registry: where names are looked up.

    Raises:
        UsageError: it is no such folder, the run is not finished, or what was trained is no language model.
    """
    if (folder / ADAPTATION).is_file():
        run, folders = folder.resolve().parent.parent, [folder]
    else:
        run, folders = folder, []
        record = RunFolder(folder, writes=False).finished()
        if record is None:
            raise UsageError(*_not_a_run(folder))
        folders = [folder / name for name in record.adaptations]
    choice = BackboneChoice(name=backbone) if backbone is not None else None
    if choice is not None:
        locate(choice, registry)  # a path that does not exist is told before torch is loaded
    if (run / "pipeline.json").is_file():
        pipeline = PipelineSpec.parse(read_json(run / "pipeline.json"), str(run / "pipeline.json"))
        _require_language_model(run, pipeline, registry)
        choice = choice or pipeline.backbone
    if choice is None:
        raise UsageError(
            f"{folder} does not say which model it was trained on by a name that can be loaded",
            "give it with --backbone: an installed model, a folder or a hub id",
        )
    return Saved(choice, tuple(folders))


def load_base(
    saved: Saved, registry: Registry, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The backbone as a language model, in evaluation mode on a device, and its tokenizer.

    Raises:
        UsageError: it cannot be loaded, or is none that could be a language model.
    """
    kind = pipelines.backbone_kind(saved.backbone, registry)
    if kind not in CLASSES:
        raise UsageError(
            f"{saved.backbone.name!r} is a backbone of kind {kind}; the harness asks language models",
            f"it takes backbones of kind {' or '.join(CLASSES)}",
        )
    model, tokenizer = pipelines.load_backbone(saved.backbone, CLASSES[kind], {}, registry, seed=0)
    return model.to(device).eval(), tokenizer  # type: ignore[arg-type]


def _not_a_run(folder: Path) -> tuple[str, str]:
    if not folder.is_dir():
        return f"{folder} is no folder", "give a finished run's folder, or one that an adaptation was saved in"
    if (folder / "pipeline.json").is_file():
        return f"the run in {folder} is not finished", f"resume it: refarch run {folder}/pipeline.json --out {folder}"
    return (
        f"{folder} holds neither a run nor an adaptation",
        "give a finished run's folder (runs/first), or an adaptation's (runs/first/adaptations/lora)",
    )


def _require_language_model(run: Path, pipeline: PipelineSpec, registry: Registry) -> None:
    """Refuse a run whose head was another one: its modules served that head, and the harness never asks it.

    A task whose plugin is not installed here says nothing.
    """
    if pipeline.task.name not in registry.names("task"):
        return
    task: TaskSpec = registry.task(pipeline.task.name)
    way = task.formulation(pipelines.backbone_kind(pipeline.backbone, registry), pipeline.task.formulation)
    if way.auto_class not in CLASSES.values():
        raise UsageError(
            f"the run in {run} has trained a model of {way.auto_class}, which writes no text",
            "the harness evaluates language models: put the task to a decoder or an encoder-decoder that writes",
        )
