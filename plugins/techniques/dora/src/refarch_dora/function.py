"""DoRA's function.

Equation    W' = m (W0 + s B A) / ||W0 + s B A||                             (paper, eq. 5)
            with one norm and one magnitude for each output unit; the norm counts as a constant for the gradient
            (section 4.3)
Symbols     m = ``magnitude`` [d_out], A = ``update.down`` [r, d_in], B = ``update.up`` [d_out, r], s = alpha / r
Slots       query and value; any linear slot
Start       m = ||W0||, A random, B = 0, so W' = W0. Beside adaptations that were attached before, W0 is their map's
Parameters  r (d_in + d_out) + d_out a matrix
"""

import torch
from torch import Tensor, nn

from refarch import Function, LowRank, SlotShape


class Decomposed(Function):
    """W -> m V / ||V||, V = W + s B A.

    Args:
        shape: of the linear layer.
        rank: r.
        alpha: numerator of s.
    """

    def __init__(self, shape: SlotShape, rank: int, alpha: float) -> None:
        super().__init__()
        self.update = LowRank(shape.d_in, shape.d_out, rank)
        self.update.scale = alpha / rank
        self.magnitude = nn.Parameter(shape.weight().norm(dim=1))

    def transform(self, weight: Tensor) -> Tensor:
        """weight: [d_out, d_in] -> [d_out, d_in]."""
        direction = weight + self.update.scale * self.update.delta()
        norm = direction.detach().norm(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)  # a row may be zero
        return (self.magnitude / norm)[:, None] * direction
