"""LoHa's function.

Equation    W' = W + s (X1 Y1^T) * (X2 Y2^T), * elementwise                  (FedPara, arXiv 2108.06098, prop. 1)
Symbols     X1 = ``up_1``, X2 = ``up_2`` [d_out, r]; Y1^T = ``down_1``, Y2^T = ``down_2`` [r, d_in]; s = alpha / r
Slots       query and value; any linear slot
Start       Y2 = 0, so the update is zero; the others like a linear layer (Kaiming-uniform)
Parameters  2 r (d_in + d_out) a matrix; the update's rank is up to r^2
"""

import torch
from torch import Tensor, nn

from refarch import Function, SlotShape


class Hadamard(Function):
    """x -> ((X1 Y1^T) * (X2 Y2^T)) x.

    Args:
        shape: of the linear layer.
        rank: r.
        alpha: numerator of s.
    """

    def __init__(self, shape: SlotShape, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.up_1, self.up_2 = (nn.Parameter(torch.empty(shape.d_out, rank)) for _ in range(2))
        self.down_1 = nn.Parameter(torch.empty(rank, shape.d_in))
        self.down_2 = nn.Parameter(torch.zeros(rank, shape.d_in))
        for factor in (self.up_1, self.down_1, self.up_2):
            nn.init.kaiming_uniform_(factor, a=5**0.5)

    def delta(self) -> Tensor:
        """[d_out, d_in]"""
        return (self.up_1 @ self.down_1) * (self.up_2 @ self.down_2)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d_in] -> [..., d_out]."""
        return nn.functional.linear(x, self.delta())
