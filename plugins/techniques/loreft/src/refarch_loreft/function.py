"""LoReFT's function.

Equation    h + R^T (W h + b - R h), with R R^T = I                     (Wu et al. 2024, arXiv 2404.03592, section 3.2)
Symbols     W = ``source.weight`` [r, d], b = ``source.bias`` [r]; R = L^-1 V with V = ``basis`` [r, d] and L the
            Cholesky factor of V V^T, so R is V with its rows made orthonormal one after the other (Gram-Schmidt)
Slots       the output of a layer, at some tokens
Start       V with random orthonormal rows, so R = V; W and b as torch's linear layers: hidden states change
Parameters  2 r d + r a layer

Initial values, and dropout on what is edited rather than on the edit, are those of the authors' code
(github.com/stanfordnlp/pyreft). There torch's parametrization keeps R orthonormal, with a buffer [d, d]; V is [r, d].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refarch import Function, SlotShape


class LoReFT(Function):
    """What hidden states have in a subspace gives way to an affine function of them.

    Args:
        shape: of the layer's output.
        rank: r, the subspace's dimension.
        dropout: probability of dropping a feature of the edited hidden states while training.
    """

    def __init__(self, shape: SlotShape, rank: int, dropout: float) -> None:
        super().__init__()
        if rank > shape.d_in:
            raise ValueError(f"rank {rank} exceeds the width of hidden states, {shape.d_in}; choose a smaller one")
        self.dropout = dropout
        self.basis = nn.Parameter(nn.init.orthogonal_(torch.empty(rank, shape.d_in)))
        self.source = nn.Linear(shape.d_in, rank)

    def rows(self) -> Tensor:
        """R, [r, d], in double precision: V V^T squares how far V is from orthonormal. MPS has float32 alone."""
        basis = self.basis.to(torch.float32 if self.basis.device.type == "mps" else torch.float64)
        # Unchecked: a V that is not finite gives an R that is not, and with it a loss that the trainer reports.
        factor = torch.linalg.cholesky_ex(basis @ basis.T).L  # r r
        return torch.linalg.solve_triangular(factor, basis, upper=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d] -> [..., d], what is added to it."""
        rows = self.rows().to(x.dtype)
        edit = (self.source(x) - F.linear(x, rows)) @ rows  # ... d
        return F.dropout(x + edit, self.dropout) - x if self.training and self.dropout else edit
