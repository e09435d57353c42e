"""LoRA's function.

Equation    h = W0 x + (alpha / r) B A x                                     (paper, eq. 3)
Symbols     A = ``down`` [r, d_in], B = ``up`` [d_out, r], alpha / r = ``scale``
Slots       query and value; any linear slot
Start       A random, B = 0, so the update is zero
Parameters  r (d_in + d_out) a matrix
"""

import torch
from torch import nn

from refarch import LowRank, SlotShape


class LoRA(LowRank):
    """x -> B A dropout(x), scaled by alpha / r, or by alpha / sqrt(r) when rank-stabilised.

    Args:
        shape: of the linear layer.
        rank: r.
        alpha: numerator of the scale.
        dropout: probability, while training.
        rank_stabilised: divide by sqrt(r) instead of r (Kalajdzievski 2023, arXiv 2312.03732).
        init: of A: ``kaiming`` (uniform, as the authors' code), ``gaussian`` (N(0, 1/r), as their paper) or
            ``orthogonal`` (orthonormal rows).
    """

    def __init__(
        self, shape: SlotShape, rank: int, alpha: float, dropout: float, rank_stabilised: bool, init: str
    ) -> None:
        if rank > min(shape.d_in, shape.d_out):
            raise ValueError(
                f"rank {rank} exceeds the matrix's own, {min(shape.d_in, shape.d_out)}; choose a smaller one"
            )
        super().__init__(shape.d_in, shape.d_out, rank, dropout)
        self.scale = alpha / (rank**0.5 if rank_stabilised else rank)
        with torch.no_grad():
            if init == "gaussian":
                nn.init.normal_(self.down, std=1 / rank)
            elif init == "orthogonal":
                nn.init.orthogonal_(self.down)
