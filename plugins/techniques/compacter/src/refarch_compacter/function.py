"""Compacter's function.

Equation    h + U f(D h + b_D) + b_U,  where D and U are each  sum_i A_i (x) (s_i t_i)            (paper, section 3)
Symbols     A_i = ``rule[i]`` [N, N], s_i = ``left[i]`` [out / N, r'], t_i = ``right[i]`` [r', in / N], (x) Kronecker
            product, i from 1 to N; D = ``down``, U = ``up``, f = ``activation``
Slots       attention.output and ffn.down; Compacter++: ffn.down alone
Start       s_i of U = 0 and b = 0, so nothing changes; the rest is normal, with the variance that a linear layer's
            matrix has
Parameters  2 r' (d + m) + d + m a slot, and N^3 once: the A_i are one for the whole model, of D and U alike
"""

import torch
from torch import Tensor, nn

from refarch import Function, SlotShape

ACTIVATIONS = {"gelu": nn.functional.gelu, "relu": torch.relu, "silu": nn.functional.silu, "tanh": torch.tanh}


class Factors(nn.Module):
    """What one matrix has of its own.

    Args:
        d_in: width of what it reads.
        d_out: width of what it returns.
        n: N.
        rank: r'.
    """

    def __init__(self, d_in: int, d_out: int, n: int, rank: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.randn(n, d_out // n, rank))  # N out/N r'
        self.right = nn.Parameter(torch.randn(n, rank, d_in // n) / (3 * d_in * rank) ** 0.5)  # N r' in/N
        self.bias = nn.Parameter(torch.zeros(d_out))  # out

    def forward(self, x: Tensor, rule: Tensor) -> Tensor:
        """x: [..., in], rule: [N, N, N] -> [..., out]."""
        blocks = self.left @ self.right  # N out/N in/N
        weight = torch.einsum("iab,icd->acbd", rule, blocks).reshape(len(self.bias), -1)  # out in
        return nn.functional.linear(x, weight, self.bias)


class Compacter(Function):
    """x -> up(f(down(x))), with matrices that are sums of Kronecker products.

    Args:
        shape: of the slot.
        bottleneck: m.
        kronecker: N.
        rank: r'.
        activation: f.
    """

    def __init__(self, shape: SlotShape, bottleneck: int, kronecker: int, rank: int, activation: str) -> None:
        super().__init__()
        widths = (shape.d_in, bottleneck, shape.d_out)
        if any(width % kronecker for width in widths):
            raise ValueError(f"the widths {shape.d_in} and {bottleneck} must be divisible by kronecker={kronecker}")
        self.rule = nn.Parameter(torch.randn(kronecker, kronecker, kronecker) / kronecker**0.5)
        self.down = Factors(shape.d_in, bottleneck, kronecker, rank)
        self.up = Factors(bottleneck, shape.d_out, kronecker, rank)
        self.activation = activation
        nn.init.zeros_(self.up.left)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d] -> [..., d]."""
        inner = ACTIVATIONS[self.activation](self.down(x, self.rule))  # ... m
        return self.up(inner, self.rule)
