"""The orthogonal butterfly's function.

Equation    z = (R W0)^T x, R = B_m ... B_1, each B_i a permuted block-diagonal rotation (Cayley's map); with
            ``scale_outputs`` each unit of z is multiplied by a learned factor, as the authors' code does
            (paper's W0 is [d_in, d_out]; with W [d_out, d_in] as torch has it, W' = diag(s) W R^T)
Symbols     B_i = ``rotations[i]`` between :meth:`BOFT._swap`, b = ``block_size``, m = ``factors``, s = ``scales``
Slots       query, key, value and output of attention; any linear slot whose input width b 2^(m-1) divides
Start       every B_i = I, s = 1
Parameters  m d_in (b - 1) / 2 a matrix, and d_out for s
"""

import torch
from torch import Tensor, nn

from refarch import BlockRotation, Function, SlotShape


class BOFT(Function):
    """A product of m sparse rotations of what the layer reads. With m = 1 it is OFT.

    Args:
        shape: of the linear layer.
        block_size: b; even where there are several factors.
        factors: m.
        scale_outputs: whether to learn s.
    """

    def __init__(self, shape: SlotShape, block_size: int, factors: int, scale_outputs: bool) -> None:
        super().__init__()
        span = block_size * 2 ** (factors - 1)
        if shape.d_in % span or (factors > 1 and block_size % 2):
            raise ValueError(
                f"{factors} factors of blocks of {block_size} need an even block size, and {span} to divide the input's"
                f" width {shape.d_in}; choose smaller blocks or fewer factors"
            )
        self.block_size = block_size
        self.rotations = nn.ModuleList(BlockRotation(shape.d_in, block_size) for _ in range(factors))
        self.scales = nn.Parameter(torch.ones(shape.d_out)) if scale_outputs else None
        if self.scales is not None:
            self.on_output = self._scaled

    def _swap(self, x: Tensor, level: int, back: bool = False) -> Tensor:
        """Bring half a block together with the one 2^level halves further on; or ``back``. Keeps x's shape."""
        halves = (2**level, 2) if back else (2, 2**level)
        return x.unflatten(-1, (-1, *halves, self.block_size // 2)).transpose(-3, -2).flatten(-4)

    def _turn(self, x: Tensor, level: int, back: bool) -> Tensor:
        """X B_level, or with ``back`` x B_level^T."""
        if level == 0:  # the first factor has its blocks side by side
            return self.rotations[0](x, back)  # type: ignore[no-any-return]
        return self._swap(self.rotations[level](self._swap(x, level), back), level, back=True)

    def on_input(self, x: Tensor) -> Tensor:
        """R^T x for each x: [..., d_in]."""
        for level in reversed(range(len(self.rotations))):
            x = self._turn(x, level, back=False)
        return x

    def _scaled(self, y: Tensor) -> Tensor:
        """y: [..., d_out] -> s y"""
        return y if self.scales is None else y * self.scales

    def transform(self, weight: Tensor) -> Tensor:
        """diag(s) W R^T, [d_out, d_in]."""
        for level in range(len(self.rotations)):
            weight = self._turn(weight, level, back=True)
        return weight if self.scales is None else weight * self.scales[:, None]
