"""Prefix tuning's function.

Equation    head = Attention(x Wq, [P_k; X Wk], [P_v; X Wv]); while training, [P_k, P_v] = MLP(P')     (paper, eq. 3)
Symbols     P' = ``trunk.table`` [l, h'], MLP = ``out`` tanh ``trunk.hidden``; after folding P_k = ``keys`` [l, d_kv],
            P_v = ``values`` [l, d_kv]. P' and the first layer of the MLP are one for all layers of the model.
Slots       the keys and values of self-attention
Start       random
Parameters  2 l d_kv a layer; the MLP is dropped at saving                                             (section 4.3)
"""

import torch
from torch import Tensor, nn

from refarch import Function, SlotShape


class Trunk(nn.Module):
    """What the layers share: a small table and the first layer of the network, [l, hidden]."""

    def __init__(self, length: int, hidden: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(length, hidden))
        self.hidden = nn.Linear(hidden, hidden)

    def forward(self) -> Tensor:
        """[l, hidden]"""
        return torch.tanh(self.hidden(self.table))


class Prefix(Function):
    """Free keys and values, made by a network while training.

    Args:
        shape: of the key projection's output.
        length: l.
        hidden: width of the network.
    """

    def __init__(self, shape: SlotShape, length: int, hidden: int) -> None:
        super().__init__()
        self.trunk: Trunk | None = Trunk(length, hidden)
        self.out: nn.Linear | None = nn.Linear(hidden, 2 * shape.d_out)
        self.keys: nn.Parameter | None = None
        self.values: nn.Parameter | None = None

    def forward(self) -> tuple[Tensor, Tensor]:
        """Keys and values, each [l, d_kv]."""
        if self.keys is not None and self.values is not None:
            return self.keys, self.values
        assert self.trunk is not None and self.out is not None
        keys, values = self.out(self.trunk()).chunk(2, dim=-1)
        return keys, values

    @torch.no_grad()
    def fold(self) -> None:
        """Keep the keys and values alone."""
        if self.trunk is not None:
            keys, values = self()
            self.keys, self.values = nn.Parameter(keys.contiguous()), nn.Parameter(values.contiguous())
            self.trunk = self.out = None
