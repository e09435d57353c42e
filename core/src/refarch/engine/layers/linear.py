"""Reading and writing the linear layers that backbones are made of, whatever class they have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from refarch.architecture.family import FusedPart
from refarch.engine.layers.quantised import dequantised, quantised, readable
from refarch.errors import CompositionError, SlotError


def widths(module: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a linear layer, an embedding or a norm; quantised layers included.

    Raises:
        SlotError: the module has no widths that can be read.
    """
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    for names in (("in_features", "out_features"), ("embedding_dim", "embedding_dim")):
        if all(isinstance(getattr(module, name, None), int) for name in names):
            return getattr(module, names[0]), getattr(module, names[1])
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim == 1:
        return weight.shape[0], weight.shape[0]
    raise SlotError(f"the width of a {type(module).__name__} cannot be read", "is the family's table right?")


def bias_of(module: nn.Module) -> Tensor | None:
    """The bias of a layer, [d_out]; None if it has none."""
    found: Tensor | None = getattr(module, "bias", None)
    return found


def plain_reason(module: nn.Module, in_memory: bool = True) -> str:
    """Why the weight of ``module`` cannot be read or written as a plain matrix; empty if it can.

    Args:
        module: a layer of a backbone.
        in_memory: whether a weight that is not in memory counts as a reason.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return f"{type(module).__name__} has no weight matrix"
    if "weight" not in module._parameters:
        return f"its weight is computed from other parameters ({type(module).__name__})"
    if weight.is_meta and in_memory:
        return "its weight is not in memory (it is offloaded, or on the meta device)"
    if quantised(module):
        return f"its weight is quantised ({quantised(module)}, not a plain tensor)"
    if type(weight) not in (nn.Parameter, Tensor) and type(weight.data) is not Tensor:
        return f"its weight is a {type(weight.data).__name__}, not a plain tensor"
    if not isinstance(module, (nn.Linear, Conv1D)) or "quant" in type(module).__module__:
        return f"{type(module).__name__} is not a plain linear layer"
    if type(module).forward not in (nn.Linear.forward, Conv1D.forward):
        return f"{type(module).__name__} computes something else than its weight says"
    return ""


def take_part(tensor: Tensor, part: FusedPart | None, dim: int = -1) -> Tensor:
    """What a part of a fused projection owns of its output (along ``dim``), or of its weight and bias (``dim=0``)."""
    if part is None:
        return tensor
    dim %= tensor.ndim
    return _pieces(tensor, part, dim)[part.number].flatten(dim, dim + 1)


def put_part(tensor: Tensor, part: FusedPart | None, own: Tensor, dim: int = -1) -> Tensor:
    """``tensor`` with ``own`` in place of what :func:`take_part` takes; a new tensor."""
    if part is None:
        return own
    dim %= tensor.ndim
    pieces = list(_pieces(tensor, part, dim))
    pieces[part.number] = own.unflatten(dim, (part.groups, -1))
    return torch.cat(pieces, dim=dim + 1).flatten(dim, dim + 1)


def _pieces(tensor: Tensor, part: FusedPart, dim: int) -> tuple[Tensor, ...]:
    """All parts as [..., groups, size, ...]."""
    return tensor.unflatten(dim, (part.groups, -1)).split(part.sizes(tensor.shape[dim]), dim=dim + 1)


def part_rows(d_out: int, part: FusedPart | None) -> Tensor:
    """The index of the rows of a [d_out, d_in] weight, or of the features of an output, that a part owns."""
    return take_part(torch.arange(d_out), part)


def unreadable_reason(module: nn.Module, in_memory: bool = True) -> str:
    """Why what the layer computes cannot be read as a matrix; empty if it can, from a quantised weight as a copy."""
    reason = plain_reason(module, in_memory)
    return "" if reason and quantised(module) and readable(module) and not module.weight.is_meta else reason  # type: ignore[union-attr]


def matrix(module: nn.Module, in_memory: bool = True) -> Tensor:
    """The layer's weight as [d_out, d_in], to read: a view of a plain one, a copy of a quantised one.

    Args:
        module: a layer of a backbone.
        in_memory: False where the whole model is on the meta device, and shapes are all that is wanted.

    Raises:
        CompositionError: there is no such matrix.
    """
    reason = unreadable_reason(module, in_memory)
    if reason:
        raise CompositionError(
            f"the base weight cannot be read as a matrix: {reason}",
            "load the base with plain weights, or choose a technique that does not read them",
        )
    return dequantised(module) if quantised(module) else read_weight(module, in_memory)


def read_weight(module: nn.Module, in_memory: bool = True) -> Tensor:
    """The weight as [d_out, d_in] (a view).

    Args:
        module: a layer of a backbone.
        in_memory: False where the whole model is on the meta device, and shapes are all that is wanted.

    Raises:
        CompositionError: it is quantised, not in memory, or not that of a plain linear layer.
    """
    reason = plain_reason(module, in_memory)
    if reason:
        raise CompositionError(f"the base weight cannot be read as a matrix: {reason}")
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.t() if isinstance(module, Conv1D) else weight


@torch.no_grad()
def write_weight(module: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    """Write a [d_out, d_in] weight and a bias [d_out] into the layer's own parameters, in place."""
    target = read_weight(module)
    target.copy_(weight)
    own = bias_of(module)
    if own is not None and bias is not None:
        own.copy_(bias)
