"""Orthogonal finetuning's function.

Equation    z = W^T x = (R W0)^T x, R = diag(R_1 ... R_r), R_i = (I + Q_i) (I - Q_i)^-1, Q_i = -Q_i^T
            (paper's W0 is [d_in, d_out]; with W [d_out, d_in] as torch has it, W' = W R^T)
Symbols     Q_i = ``rotation.angles`` (what stands above its diagonal), b = d_in / r = ``block_size``
Slots       query, key, value and output of attention; any linear slot
Start       Q = 0, so R = I
Parameters  d_in (b - 1) / 2 a matrix; b (b - 1) / 2 with shared blocks
"""

from torch import Tensor

from refarch import BlockRotation, Function, SlotShape


class OFT(Function):
    """A block-diagonal rotation of what the layer reads.

    Args:
        shape: of the linear layer.
        block_size: b.
        share_blocks: whether R_1 = ... = R_r.
    """

    def __init__(self, shape: SlotShape, block_size: int, share_blocks: bool) -> None:
        super().__init__()
        self.rotation = BlockRotation(shape.d_in, block_size, share_blocks)

    def on_input(self, x: Tensor) -> Tensor:
        """R^T x for each x: [..., d_in]."""
        return self.rotation(x)  # type: ignore[no-any-return]

    def transform(self, weight: Tensor) -> Tensor:
        """W R^T, [d_out, d_in]."""
        return self.rotation(weight, back=True)  # type: ignore[no-any-return]
