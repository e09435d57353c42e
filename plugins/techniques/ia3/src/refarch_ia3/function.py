"""(IA)3's function.

Equation    softmax(Q (l_k * K)^T / sqrt(d)) (l_v * V);  (l_ff * act(W1 x)) W2          (paper, section 3.3)
Symbols     l_k, l_v, l_ff = ``factors``
Slots       key, value, the input of ffn.down; in a decoder, also of cross-attention
Start       ones, so nothing changes
Parameters  2 d_kv + d_ff a layer; 4 d_kv + d_ff where there is cross-attention
"""

import torch
from torch import Tensor, nn

from refarch import Function, SlotShape


class Factors(Function):
    """One factor for each unit.

    Args:
        shape: of the slot.
    """

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(shape.d_out))

    def forward(self) -> Tensor:
        """The factors, [width]."""
        return self.factors
