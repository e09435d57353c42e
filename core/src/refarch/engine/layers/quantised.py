"""Weights that a library has quantised: what tells them apart, and the library's own way to read them as matrices.

No such library is imported here. torchao's weights are tensor subclasses that read themselves; those of bitsandbytes
are bytes, which transformers knows to read. What is read is a copy: a quantised weight is never written.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_BYTES = ("Params4bit", "Int8Params")
"""The classes by which transformers too knows the weights of bitsandbytes."""


def quantised(module: nn.Module) -> str:
    """What a module's weight is quantised as, in words; empty if it is not."""
    weight = getattr(module, "weight", None)
    return quantised_as(weight) if isinstance(weight, Tensor) else ""


def quantised_as(weight: Tensor) -> str:
    """See :func:`quantised`."""
    if type(weight).__name__ in _BYTES or _reads_itself(weight):
        return type(weight).__name__
    return "" if weight.dtype.is_floating_point and weight.element_size() > 1 else str(weight.dtype)


def _reads_itself(weight: Tensor) -> bool:
    return type(weight).dequantize is not Tensor.dequantize


def readable(module: nn.Module) -> bool:
    """Whether a quantised weight can be read as a matrix."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if type(weight).__name__ in _BYTES:
        return getattr(weight, "quant_state", None) is not None or _scales(module) is not None
    return _reads_itself(weight)


@torch.no_grad()
def dequantised(module: nn.Module) -> Tensor:
    """A copy of a readable quantised weight as the layer means it, [d_out, d_in] of a linear layer."""
    if _reads_itself(module.weight):  # type: ignore[arg-type]
        return module.weight.dequantize().detach()  # type: ignore[no-any-return, operator, union-attr]
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    restore_order(module)
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    found: Tensor = dequantize_bnb_weight(weight, SimpleNamespace(SCB=_scales(module)))
    return found.detach()


def _scales(module: nn.Module) -> Tensor | None:
    """Those of 8-bit rows, which move from the weight to the layer's state with its first forward pass."""
    found: Tensor | None = getattr(module.weight, "SCB", None)
    return getattr(getattr(module, "state", None), "SCB", None) if found is None else found


def restore_order(module: nn.Module) -> None:
    """Some CPUs' kernels reorder a 4-bit weight while evaluating; saving it, as here, puts the order back."""
    if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
        module.state_dict()


_REORDERS = "support_avx512bf16_for_cpu"
"""What a 4-bit layer of bitsandbytes has, True where the CPU's kernel reads the weight in an order of its own."""


def keep_order(model: nn.Module) -> list[nn.Module]:
    """Let no layer reorder its weight while evaluating, and put back the order where one has: through a weight in that
    order, gradients are lost without a word, also in later training steps.

    Returns:
        The layers that would; for :func:`free_order`.
    """
    found = [module for module in model.modules() if getattr(module, _REORDERS, False)]
    for module in found:
        restore_order(module)
        module.__dict__[_REORDERS] = False
    return found


def free_order(modules: list[nn.Module]) -> None:
    """Let layers reorder their weights again."""
    for module in modules:
        module.__dict__[_REORDERS] = True


def stored(module: nn.Module) -> list[Tensor]:
    """The tensors that hold a quantised weight."""
    restore_order(module)
    weight = module.weight
    assert isinstance(weight, Tensor)
    return inner_tensors(weight)


def inner_tensors(tensor: Tensor) -> list[Tensor]:
    """The plain tensors that a tensor's values are in: of a tensor subclass those inside it, else itself."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor.data]
    names, _ = tensor.__tensor_flatten__()
    return [getattr(tensor, name) for name in names]


def full_shape(module: nn.Module) -> tuple[int, ...]:
    """The shape that a quantised weight would have unquantised."""
    weight, widths = module.weight, (getattr(module, "out_features", None), getattr(module, "in_features", None))
    assert isinstance(weight, Tensor)
    if weight.ndim != 2 or None in widths:
        return tuple(weight.shape)
    # transformers replaces a Conv1D by a linear layer, which stores the transpose.
    turned = issubclass(getattr(module, "source_cls", nn.Module), Conv1D)
    return tuple(reversed(widths)) if turned else widths  # type: ignore[return-value, arg-type]
