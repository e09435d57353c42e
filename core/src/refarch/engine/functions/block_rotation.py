"""A block-diagonal orthogonal matrix, which transformations that rotate weights are built from."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BlockRotation(nn.Module):
    """x -> x R with R = diag(R_1 ... R_n) orthogonal by Cayley's map, R_i = (I + Q_i) (I - Q_i)^-1.

    Q_i is skew-symmetric, so every R_i is a rotation; Q_i = 0 at the start, and R the identity.

    Args:
        width: of x.
        size: of a block, b.
        shared: whether all blocks are one.

    Attributes:
        angles: what stands above the diagonal of each Q_i, row by row, [blocks or 1, b (b - 1) / 2].

    Raises:
        ValueError: blocks of that size do not fill the width.
    """

    def __init__(self, width: int, size: int, shared: bool = False) -> None:
        super().__init__()
        if width % size:
            raise ValueError(f"blocks of {size} do not fill a width of {width}; choose a divisor of it")
        self.size = size
        self.angles = nn.Parameter(torch.zeros(1 if shared else width // size, size * (size - 1) // 2))

    def blocks(self) -> Tensor:
        """R_1 ... R_n, [blocks or 1, b, b]; in float32 at least, below which no linear system is solved."""
        angles = self.angles if self.angles.dtype == torch.float64 else self.angles.float()
        row, column = torch.triu_indices(self.size, self.size, 1, device=angles.device)
        upper = angles.new_zeros(len(angles), self.size, self.size)
        upper[:, row, column] = angles
        skew = upper - upper.mT
        eye = torch.eye(self.size, dtype=angles.dtype, device=angles.device)
        return torch.linalg.solve(eye - skew, eye + skew)  # the two commute

    def forward(self, x: Tensor, back: bool = False) -> Tensor:
        """x: [..., width] -> x R, or with ``back`` x R^T."""
        blocks = self.blocks().to(x.dtype)
        pieces = x.unflatten(-1, (-1, self.size))  # ... n b
        return torch.einsum("...nb,nbc->...nc", pieces, blocks.mT if back else blocks).flatten(-2)
