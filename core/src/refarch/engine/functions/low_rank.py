"""A linear map through a narrow space, and with a frozen linear layer as one autograd node.

Against the plain composition that node saves two passes over the activations: the update is accumulated into the
layer's output in place, and its input gradient into the layer's input gradient. ``tests/benchmarks`` measures what
that earns.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from refarch.engine.functions.function import Function
from refarch.engine.layers.precision import autocasts


class FusedLowRank(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T with W and b frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        """x: [..., d_in], weight: [d_out, d_in], bias: [d_out], down: [r, d_in], up: [d_out, r] -> [..., d_out]."""
        flat = x.reshape(-1, x.shape[-1])  # n d_in
        y = torch.addmm(bias, flat, weight.t()) if bias is not None else flat @ weight.t()  # n d_out
        h = flat @ down.t()  # n r
        y.addmm_(h, up.t(), alpha=scale)
        # What the layer reads is kept for the gradient of `down` alone: with `down` frozen that memory is saved.
        ctx.save_for_backward(flat if ctx.needs_input_grad[3] else None, h, weight, down, up)
        ctx.scale = scale
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """gradient: [..., d_out]."""
        flat, h, weight, down, up = ctx.saved_tensors
        g = gradient.reshape(-1, gradient.shape[-1])  # n d_out
        gh = (g @ up).mul_(ctx.scale)  # n r
        needs_x, _, _, needs_down, needs_up, _ = ctx.needs_input_grad
        gx = None
        if needs_x:
            gx = g @ weight  # n d_in
            gx.addmm_(gh, down)
            gx = gx.view(*gradient.shape[:-1], gx.shape[-1])
        g_down = gh.t() @ flat if needs_down else None  # r d_in
        g_up = (h.t() @ g).mul_(ctx.scale).t() if needs_up else None  # d_out r
        return gx, None, None, g_down, g_up, None


def can_fuse(leaf: nn.Module, function: Any, x: Tensor) -> bool:
    """Whether the fused node computes exactly what the layer and the function would, on the same kernels."""
    weight = getattr(leaf, "weight", None)
    return (
        type(leaf) is nn.Linear
        and type(weight) is nn.Parameter
        and not weight.requires_grad
        and not (leaf.bias is not None and leaf.bias.requires_grad)
        and weight.dtype == x.dtype == function.down.dtype
        and x.dtype.is_floating_point
        and not function.drops
        and isinstance(function.scale, (int, float))
        and not autocasts(x)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()  # torch.func.grad, vmap ...
        and torch.is_grad_enabled()
    )


class LowRank(Function):
    """A linear map through a narrow space: x -> up(down(dropout(x))).

    The engine adds it without a pass of its own over the output. Subclasses initialise ``down`` and ``up`` and set
    ``scale``.

    Args:
        d_in: width of the input.
        d_out: width of the output.
        rank: width of the narrow space.
        dropout: probability of dropping an input feature while training.

    Attributes:
        down: [rank, d_in], initialised like a linear layer (Kaiming-uniform with a = sqrt(5)).
        up: [d_out, rank], zeros.
    """

    def __init__(self, d_in: int, d_out: int, rank: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, d_in))
        self.up = nn.Parameter(torch.zeros(d_out, rank))
        self.dropout = dropout
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def delta(self) -> Tensor:
        """[d_out, d_in]"""
        return self.up @ self.down

    @property
    def drops(self) -> bool:
        """Whether dropout is at work now."""
        return self.training and self.dropout > 0

    def forward(self, x: Tensor, into: Tensor | None = None, base: Any = None) -> Tensor:
        """The contribution; or, for the engine, the whole sum.

        Args:
            x: [..., d_in].
            into: the base's output [..., d_out]; then ``into + scale * contribution`` is returned.
            base: the frozen linear layer that would compute ``into``; then it is computed here, in one autograd node.
        """
        if base is not None:
            return FusedLowRank.apply(x, base.weight, base.bias, self.down, self.up, self.scale)
        h = F.linear(F.dropout(x, self.dropout) if self.drops else x, self.down)  # ... r
        # A contiguous [r, d_out] makes autograd compute the gradient of `up` as h^T g, not as (g^T h), which is several
        # times slower on CPU for a thin h; docs/benchmarks.md has the figures.
        up = self.up.t().contiguous()
        if into is None:
            return h @ up
        flat = into.reshape(-1, into.shape[-1])  # n d_out
        return torch.addmm(flat, h.reshape(-1, h.shape[-1]), up, alpha=float(self.scale)).view_as(into)
