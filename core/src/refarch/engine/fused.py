"""A frozen linear layer plus a low-rank update as one autograd node.

Against the plain composition it saves two passes over the activations: the update is accumulated into the layer's
output in place, and its input gradient into the layer's input gradient. ``tests/benchmarks`` measures what that earns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on where x is; torch refuses the question for the meta device."""
    kind = x.device.type
    return kind != "meta" and torch.is_autocast_enabled(kind)


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
