"""Whether gradients pass through a model's quantised layers, found by trying."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from refarch.engine.bindings.dispatch import Dispatcher
from refarch.engine.layers.linear import bias_of
from refarch.engine.layers.quantised import (
    quantised,
    restore_order,
)
from refarch.errors import CompositionError


def refuse_without_gradients(model: PreTrainedModel) -> None:
    """Make sure that training is possible: that gradients pass through every quantised layer of the backbone.

    Raises:
        CompositionError: through some layers they do not, so what is attached below would get wrong ones or none.
    """
    found = [(path, module) for path, module in model.base_model.named_modules() if _blocks(module)]
    if found:
        path, module = found[0]
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise CompositionError(
            f"gradients do not pass through the quantised layer {path!r}{more}: its {quantised(module)} computes"
            " without them, so what is attached below it would not be trained by what comes above",
            "quantise the weights alone, not the activations; or attach with trainable=False",
        )


def _blocks(module: nn.Module) -> bool:
    """Whether a quantised linear layer gives an output without gradient for an input that has one."""
    weight, width = getattr(module, "weight", None), getattr(module, "in_features", None)
    if not isinstance(width, int) or not quantised(module) or weight.is_meta:  # type: ignore[union-attr]
        return False
    dispatcher = Dispatcher.of(module)
    forward = module.forward if dispatcher is None else dispatcher.base
    restore_order(module)
    with torch.enable_grad():
        x = torch.ones(1, width, dtype=_computes_in(module), device=weight.device)  # type: ignore[union-attr]
        return not forward(x.requires_grad_()).requires_grad


def _computes_in(module: nn.Module) -> torch.dtype:
    """The dtype of what a quantised layer reads: of its bias (which bitsandbytes would convert in place) or weight."""
    state = getattr(module.weight, "quant_state", None)
    for held in (bias_of(module), state, module.weight):
        dtype = getattr(held, "dtype", None)
        if isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize > 1:
            return dtype
    return torch.float32
