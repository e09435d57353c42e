"""VeRA's function.

Equation    W x + diag(b) B diag(d) A x                                                       (paper, section 3.1)
Symbols     A = ``down`` [r, d_in] and B = ``up`` [d_out, r], frozen and one for the whole model; d = ``d`` [r],
            b = ``b`` [d_out]. Where shapes differ, matrices of one shape are one.
Slots       query and value, or any linear slot
Start       A and B Kaiming-uniform, d = 0.1, b = 0, so the update is zero                    (section 3.3)
Parameters  r + d_out a matrix; A and B do not train
"""

import torch
from torch import Tensor, nn

from refarch import Function, SlotShape


class VeRA(Function):
    """x -> b * B (d * A x).

    Args:
        shape: of the linear layer.
        rank: r.
        dropout: probability, on the input while training.
        d_initial: the initial value of d.
    """

    def __init__(self, shape: SlotShape, rank: int, dropout: float, d_initial: float) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, shape.d_in))
        self.up = nn.Parameter(torch.empty(shape.d_out, rank))
        nn.init.kaiming_uniform_(self.down)
        nn.init.kaiming_uniform_(self.up)
        self.d = nn.Parameter(torch.full((rank,), d_initial))
        self.b = nn.Parameter(torch.zeros(shape.d_out))
        self.dropout = nn.Dropout(dropout)

    def delta(self) -> Tensor:
        """[d_out, d_in]"""
        return (self.b[:, None] * self.up) @ (self.d[:, None] * self.down)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d_in] -> [..., d_out]."""
        inner = self.d * nn.functional.linear(self.dropout(x), self.down)  # ... r
        return self.b * nn.functional.linear(inner, self.up)
