"""LoKr's function.

Equation    W' = W + s C kron D, D = B A                                     (paper, arXiv 2309.14859, section 3.3)
Symbols     C = ``first`` [u_out, u_in], D = ``second`` [v_out, v_in] with u_out v_out = d_out and u_in v_in = d_in;
            each is a matrix, or the product of ``up`` and ``down`` where r is less than half its larger side (the first
            only when both shall be decomposed); s = alpha / r
Slots       query and value; any linear slot
Start       D = 0 (its B, where it is decomposed), C Kaiming-uniform, so the update is zero
Parameters  u_out u_in + r (v_out + v_in) a matrix, with D decomposed and C not
"""

import math

import torch
from torch import Tensor, nn

from refarch import Function, LowRank, SlotShape


def divide(width: int, factor: int | None) -> tuple[int, int]:
    """Width as u * v: u = factor if that divides it, else the largest divisor up to it and up to the width's root."""
    if factor is not None and width % factor == 0:
        return factor, width // factor
    largest = min(math.isqrt(width), factor or width)
    u = max(number for number in range(1, largest + 1) if width % number == 0)
    return u, width // u


class Full(nn.Module):
    """A factor that is a matrix of its own, [rows, columns]."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(rows, columns))

    def delta(self) -> Tensor:
        """The matrix."""
        return self.matrix


class Kronecker(Function):
    """x -> (C kron D) x, computed as D X C^T with X the matrix of x.

    Args:
        shape: of the linear layer.
        rank: r.
        alpha: numerator of s.
        factor: u_out and u_in, if they divide d_out and d_in.
        decompose_both: whether C may be decomposed.
    """

    def __init__(self, shape: SlotShape, rank: int, alpha: float, factor: int | None, decompose_both: bool) -> None:
        super().__init__()
        self.scale = alpha / rank
        (u_out, v_out), (u_in, v_in) = divide(shape.d_out, factor), divide(shape.d_in, factor)
        first_is_low = decompose_both and rank < max(u_out, u_in) / 2
        self.first = LowRank(u_in, u_out, rank) if first_is_low else Full(u_in, u_out)
        self.second = LowRank(v_in, v_out, rank) if rank < max(v_out, v_in) / 2 else Full(v_in, v_out)
        nn.init.kaiming_uniform_(self.first.up if isinstance(self.first, LowRank) else self.first.matrix, a=5**0.5)

    def delta(self) -> Tensor:
        """[d_out, d_in]"""
        return torch.kron(self.first.delta(), self.second.delta())

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d_in] -> [..., d_out]."""
        first, second = self.first.delta(), self.second.delta()
        x = x.unflatten(-1, (first.shape[1], second.shape[1]))  # ... u_in v_in
        # einsum, because the order in which matmul sums here depends on whether the factors train
        h = torch.einsum("...jl,kl->...jk", x, second)  # ... u_in v_out
        return torch.einsum("ij,...jk->...ik", first, h).flatten(-2)  # ... d_out
