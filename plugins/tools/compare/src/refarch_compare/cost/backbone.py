"""The backbone of an estimate: a transformers model on the meta device, from its configuration alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from refarch_inspect import source
from transformers import PretrainedConfig, PreTrainedModel

from refarch import Registry
from refarch.errors import UsageError, did_you_mean

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A model without weights.

    Attributes:
        label: as it was asked for.
        model: on the meta device.
        dtype: of its weights.
    """

    label: str
    model: PreTrainedModel
    dtype: Dtype

    @property
    def parameters(self) -> int:
        """How many it has, tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def find(
    name: str,
    registry: Registry,
    dtype: Dtype | None = None,
    auto_class: str | None = None,
    labels: Sequence[str] = (),
) -> Backbone:
    """Build a model plugin, a folder, a configuration file, a hub id, a family or a model type of transformers.

    Args:
        name: what is asked for.
        registry: where plugins are looked up.
        dtype: of the weights; the configuration's own when left out, or float32.
        auto_class: the transformers class whose head the model gets; the configuration's own when left out.
        labels: names of those that the head tells apart; the configuration's own when left out. A checkpoint has them.

    Raises:
        UsageError: there is no such model, or it cannot be built.
    """
    config = source.find_config(name, None, registry)
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    if Path(name).is_file():
        config.name_or_path = str(Path(name).parent)  # a checkpoint names the folder that the model is loaded from
    return of_config(config, name, dtype, auto_class)


def of_config(
    config: PretrainedConfig, label: str = "", dtype: Dtype | None = None, auto_class: str | None = None
) -> Backbone:
    """The same for a configuration."""
    if auto_class is not None and auto_class not in source.heads(config) and auto_class != "AutoModel":
        raise UsageError(
            f"transformers has no {auto_class} for the model type {config.model_type!r}",
            did_you_mean(auto_class, [*source.heads(config), "AutoModel"]),
        )
    own = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    kept: Dtype = own if own in get_args(Dtype) else "float32"  # type: ignore[assignment]
    chosen: Dtype = dtype or kept
    model = source.with_head(config) if auto_class is None else source.without_weights(config, auto_class)
    model = model.to(getattr(torch, chosen))
    model.config.use_cache = False  # as in training
    return Backbone(label or Path(str(config.name_or_path)).name or config.model_type, model, chosen)
