"""The bottleneck adapter's function.

Equation    h + W_up f(W_down h + b_down) + b_up                      (Houlsby et al. 2019, section 2.1)
Symbols     W_down = ``down.weight`` [m, d_in], W_up = ``up.weight`` [d_out, m], f = ``activation``
Slots       houlsby: attention.output and ffn.down (arXiv 1902.00751); pfeiffer: ffn.down (2005.00247); parallel: beside
            ffn, scaled (He et al. 2022, 2110.04366, table 1)
Start       W_up = 0 and b = 0, so nothing changes
Parameters  m (d_in + d_out) + m + d_out a slot
"""

import torch
from torch import Tensor, nn

from refarch import Function, SlotShape

ACTIVATIONS = {"gelu": nn.functional.gelu, "relu": torch.relu, "silu": nn.functional.silu, "tanh": torch.tanh}


class Bottleneck(Function):
    """x -> up(f(down(x))).

    Args:
        shape: of the slot.
        bottleneck: m.
        activation: f.
        scale: s of a scaled addition.
        dropout: probability, on the inner units while training.
    """

    def __init__(self, shape: SlotShape, bottleneck: int, activation: str, scale: float, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(shape.d_in, bottleneck)
        self.up = nn.Linear(bottleneck, shape.d_out)
        self.activation, self.scale, self.dropout = activation, scale, nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d_in] -> [..., d_out]."""
        return self.up(self.dropout(ACTIVATIONS[self.activation](self.down(x))))
