"""Prompt tuning's function.

Equation    [P; X] in place of X, for embedded tokens X                                 (paper, section 2)
Symbols     P = ``tokens`` [l, d]
Slots       inputs; in an encoder-decoder, those of the encoder
Start       embeddings of random words, or uniform in [-0.5, 0.5]                       (paper, section 3.2)
Parameters  l d, once
"""

import torch
from torch import Tensor, nn

from refarch import Function, SlotShape


class Prompt(Function):
    """Free tokens.

    Args:
        shape: of the embedded input.
        length: l.
        init: ``vocabulary`` or ``uniform``.
    """

    def __init__(self, shape: SlotShape, length: int, init: str) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(length, shape.d_out).uniform_(-0.5, 0.5))  # l d
        if init == "vocabulary":
            table = shape.weight()  # words d
            self.tokens.data.copy_(table[torch.randint(len(table), (length,))])

    def forward(self) -> Tensor:
        """The tokens, [l, d]."""
        return self.tokens
