"""Householder reflection adaptation's function.

Equation    z = W0 H x, H = H_1 ... H_r, H_i = I - 2 u_i u_i^T, |u_i| = 1
            computed at once as H = I - U T U^T, T^-1 = I / 2 + (what stands above the diagonal of U^T U)
Symbols     u_i = row i of ``vectors``, normalised; r = ``rank``
Slots       query, key, value and output of attention; any linear slot
Start       random vectors in equal pairs, whose reflections cancel
Parameters  r d_in a matrix
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refarch import Function, SlotShape


class HRA(Function):
    """A chain of reflections of what the layer reads.

    Args:
        shape: of the linear layer.
        rank: r, even.
    """

    def __init__(self, shape: SlotShape, rank: int) -> None:
        super().__init__()
        if rank % 2:
            raise ValueError(f"rank {rank} is odd, but the reflections start in pairs that cancel; choose an even one")
        self.vectors = nn.Parameter(torch.randn(rank // 2, shape.d_in).repeat_interleave(2, dim=0))

    def _reflect(self, x: Tensor, back: bool) -> Tensor:
        """X H for x: [..., d_in], or with ``back`` x H^T."""
        # In double precision, so that pairs cancel at the start; an r x d_in matrix costs little. MPS has no such type.
        wide = torch.float32 if self.vectors.device.type == "mps" else torch.float64
        units = F.normalize(self.vectors.to(wide), dim=1)  # r d_in
        eye = torch.eye(len(units), dtype=units.dtype, device=units.device)
        inverse = torch.triu(units @ units.T, diagonal=1) + eye / 2  # r r
        inner = torch.linalg.solve_triangular(inverse, eye, upper=True)  # T
        after = ((inner.T if back else inner) @ units).to(x.dtype)  # r d_in
        units = units.to(x.dtype)
        # Every second one apart: the partners of a pair then cancel to the last bit, not to rounding.
        return x - (x @ units[::2].T @ after[::2] + x @ units[1::2].T @ after[1::2])

    def on_input(self, x: Tensor) -> Tensor:
        """H x for each x: [..., d_in]."""
        return self._reflect(x, back=True)

    def transform(self, weight: Tensor) -> Tensor:
        """W H, [d_out, d_in]."""
        return self._reflect(weight, back=False)
