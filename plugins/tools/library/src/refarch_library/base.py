"""Load the backbone that an entry names. The name comes from a file, so what could run code is off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refarch import Registry, pipeline
from refarch.architecture import BackboneChoice
from refarch.errors import UsageError
from refarch.plugins import locate
from refarch_library.entry import Entry

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def choice(entry: Entry, backbone: str | None = None) -> BackboneChoice:
    """Which backbone an entry is loaded on.

    Args:
        entry: any.
        backbone: instead of the one that its run named: where that is another machine's folder.

    Raises:
        UsageError: the entry asks for code that comes with the weights.
    """
    own = entry.record.pipeline.backbone
    if own.trust_remote_code and backbone is None:
        raise UsageError(
            f"entry {entry.name!r} asks to run code that comes with {own.name!r}, which an entry may not",
            "load that model yourself and use refarch.load, if you trust it",
        )
    fields: dict[str, Any] = {"name": backbone, "revision": None} if backbone is not None else {}
    return own.model_copy(update={**fields, "trust_remote_code": False})


def load_base(
    entry: Entry, registry: Registry, *, backbone: str | None = None, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The backbone with a head as the entry's run had it, in evaluation mode on a device, and its tokenizer.

    Raises:
        UsageError: it cannot be had here, or the entry does not say which head it had.
    """
    own = choice(entry, backbone)
    if not entry.base.auto_class:
        raise UsageError(
            f"entry {entry.name!r} does not say with which head its backbone was loaded",
            "it is of an old format: load the model yourself and use refarch.load",
        )
    _check_config(entry, own, registry)
    model, tokenizer = pipeline.load_backbone(
        own, entry.base.auto_class, arguments(entry), registry, entry.record.seeds.head
    )
    return model.to(pipeline.device(device)).eval(), tokenizer  # type: ignore[arg-type]


def arguments(entry: Entry) -> dict[str, Any]:
    """What the head's labels ask of loading a model."""
    labels = entry.base.labels
    if not labels:
        return {}
    return {"num_labels": len(labels), "id2label": labels, "label2id": {name: n for n, name in labels.items()}}


def _check_config(entry: Entry, own: BackboneChoice, registry: Registry) -> None:
    """Values that a run has overridden must be the configuration's own, and not arguments that loading takes."""
    if not own.config:
        return
    from transformers import AutoConfig

    with pipeline.quiet():
        known = AutoConfig.from_pretrained(locate(own, registry), revision=own.revision or "main").to_dict()
    strange = sorted(own.config.keys() - known.keys())
    if strange:
        raise UsageError(
            f"entry {entry.name!r} overrides {', '.join(strange)}, which the backbone's configuration does not have",
            "load that model yourself and use refarch.load, if you trust it",
        )
