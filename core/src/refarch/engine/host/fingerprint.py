"""Which base an adaptation was trained on: enough to refuse another one, cheap enough for every save."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from refarch.architecture.fingerprint import Fingerprint
from refarch.engine.host import selection
from refarch.engine.layers.offloaded import value_elsewhere
from refarch.engine.layers.quantised import full_shape, quantised, stored

_SAMPLES = 16


def originals(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The backbone's own parameters by path relative to the base model, originals where copies are in place."""
    aside = {id(item.current): item.original for item in selection.selected(model).values()}
    base: nn.Module = model.base_model
    inner = {name: p for name, p in base.named_parameters() if not name.startswith("refarch.")}
    return {name: aside.get(id(p), p) for name, p in inner.items()}


def _value(base: nn.Module, name: str, parameter: torch.Tensor) -> torch.Tensor | None:
    """A parameter's value, wherever it lies; None where there is none."""
    if parameter.device.type != "meta":
        return parameter
    path, _, leaf = name.rpartition(".")
    return value_elsewhere(base.get_submodule(path), leaf)


@torch.no_grad()
def fingerprint(model: PreTrainedModel, head: Sequence[str] = ()) -> Fingerprint:
    """The fingerprint of a model's backbone, with the head at the paths ``head`` and whatever is attached left out."""
    structure, content = hashlib.sha256(), hashlib.sha256()
    count, dtype, kinds = 0, "?", set()
    special = {f"{path}.weight": module for path, module in model.base_model.named_modules() if quantised(module)}
    outside = tuple(f"{path}." for path in head) if model.base_model is model else ()
    for name, parameter in sorted(originals(model).items()):
        if name.startswith(outside):
            continue
        module = special.get(name)
        shape = tuple(parameter.shape) if module is None else full_shape(module)
        structure.update(f"{name}{shape}".encode())
        count += math.prod(shape)
        if module is None:
            dtype = str(parameter.dtype).removeprefix("torch.")
        else:
            kinds.add(quantised(module))
        value = _value(model.base_model, name, parameter)
        if value is not None:
            for tensor in [value] if module is None else stored(module):
                flat = tensor.detach().reshape(-1)
                step = max(1, flat.numel() // _SAMPLES)
                content.update(flat[::step][:_SAMPLES].to(torch.float64).cpu().numpy().tobytes())
    return Fingerprint(
        model_class=type(model).__name__,
        model_type=str(model.config.model_type),
        name_or_path=str(getattr(model.config, "_name_or_path", "") or ""),
        parameters=count,
        dtype=" ".join([dtype, *sorted(kinds)]),
        structure=structure.hexdigest()[:32],
        content=content.hexdigest()[:32],
    )
