"""The adaption prompt's function.

Equation    softmax(Q K^T / sqrt(d)) V + g softmax(Q K_P^T / sqrt(d)) V_P,  K_P = P Wk, V_P = P Wv    (paper, section 3)
Symbols     P = ``tokens`` [K, d], g the gate of the module spec, one a layer; Wk, Wv the layer's own projections
Slots       the keys and values of self-attention, in the topmost L layers (``layers={"last": L}``)
Start       P standard normal, g = 0, so nothing changes
Parameters  K d + 1 a layer
"""

import torch
from torch import Tensor, nn

from refarch import Function, SlotShape


class AdaptionPrompt(Function):
    """Learned prompt tokens of one layer.

    Args:
        shape: of the key projection.
        length: K.
    """

    def __init__(self, shape: SlotShape, length: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(length, shape.d_in))

    def forward(self) -> Tensor:
        """The prompt as hidden states, [K, d]."""
        return self.tokens
