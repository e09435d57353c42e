"""Throwaway functions, one for each form, with values that are nowhere neutral, so that a form left out shows."""

import torch
from torch import Tensor, nn

from refarch import Attend, Function, LowRank, SlotShape


class Line(Function):
    """x -> D x, with a scale of its own."""

    scale = 0.7

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(shape.d_out, shape.d_in) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.t()

    def delta(self) -> Tensor:
        return self.matrix


class Narrow(LowRank):
    """A low-rank map that is not zero at the start, with a scale that is not one."""

    def __init__(self, shape: SlotShape, rank: int = 3, scale: float = 0.6, dropout: float = 0.0) -> None:
        super().__init__(shape.d_in, shape.d_out, rank, dropout)
        self.scale = scale
        nn.init.normal_(self.up, std=0.2)


class LearnedScale(Function):
    """A scale that trains."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(shape.d_out, shape.d_in) * 0.1)
        self.scale = nn.Parameter(torch.tensor(0.4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.t()

    def delta(self) -> Tensor:
        return self.matrix


class Mlp(Function):
    """A nonlinear network on each position."""

    scale = 1.3

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.down = nn.Linear(shape.d_in, 4)
        self.up = nn.Linear(4, shape.d_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(torch.tanh(self.down(x)))


class Offset(Function):
    """A vector that is added: no matrix stands for it."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(shape.d_out) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.vector.expand(*x.shape[:-1], -1)


class Looking(Function):
    """Two heads, three wide, that look at all tokens that the base sees."""

    scale = 1.7

    def __init__(self, shape: SlotShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.maps = nn.Parameter(torch.randn(3, 2, 3, shape.d_in) * 0.3)
        self.up = nn.Parameter(torch.randn(shape.d_out, 6) * 0.3)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        q, k, v = torch.einsum("btd,nhcd->nbthc", x, self.maps)  # b t 2 3
        return attend(q, k, v, self.dropout if self.training else 0.0).flatten(-2) @ self.up.t()


class Factors(Function):
    """One factor a unit."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.factors = nn.Parameter(1 + 0.3 * torch.randn(shape.d_out))

    def forward(self) -> Tensor:
        return self.factors


class Tokens(Function):
    """Free tokens at the inputs."""

    def __init__(self, shape: SlotShape, length: int = 3) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(length, shape.d_out) * 0.5)

    def forward(self) -> Tensor:
        return self.tokens


class HiddenTokens(Function):
    """Free tokens that the layer's own projections make keys and values."""

    def __init__(self, shape: SlotShape, length: int = 3) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(length, shape.d_in) * 0.5)

    def forward(self) -> Tensor:
        return self.tokens


class KeyValues(Function):
    """Free keys and values."""

    def __init__(self, shape: SlotShape, length: int = 3) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.randn(length, shape.d_out) * 0.5)
        self.values = nn.Parameter(torch.randn(length, shape.d_out) * 0.5)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.keys, self.values


class Reparameterised(Function):
    """Keys and values that a network computes while training; it is dropped by saving."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.seeds = nn.Parameter(torch.randn(2, 5))
        self.network: nn.Linear | None = nn.Linear(5, 2 * shape.d_out)

    def forward(self) -> tuple[Tensor, Tensor]:
        both = self.seeds if self.network is None else self.network(self.seeds)
        keys, values = both.chunk(2, dim=-1)
        return keys, values

    def fold(self) -> None:
        if self.network is not None:
            self.seeds = nn.Parameter(self.network(self.seeds).detach())
            self.network = None


class ByWeight(Function):
    """W -> W * exp(a), unit by unit: only the matrix itself shows it."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.logs = nn.Parameter(torch.randn(shape.d_out, shape.d_in) * 0.2)

    def transform(self, weight: Tensor) -> Tensor:
        return weight * self.logs.exp()


class OnInput(Function):
    """W -> W R, computed as W (R x)."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.eye(shape.d_in) + 0.1 * torch.randn(shape.d_in, shape.d_in))

    def on_input(self, x: Tensor) -> Tensor:
        return x @ self.turn.t()

    def transform(self, weight: Tensor) -> Tensor:
        return weight @ self.turn


class OnOutput(Function):
    """W -> R W, computed as R (W x)."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.eye(shape.d_out) + 0.1 * torch.randn(shape.d_out, shape.d_out))

    def on_output(self, y: Tensor) -> Tensor:
        return y @ self.turn.t()

    def transform(self, weight: Tensor) -> Tensor:
        return self.turn @ weight


class OnBoth(Function):
    """W -> diag(s) W R, computed as s (W (R x))."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.eye(shape.d_in) + 0.1 * torch.randn(shape.d_in, shape.d_in))
        self.factors = nn.Parameter(1 + 0.2 * torch.randn(shape.d_out))

    def on_input(self, x: Tensor) -> Tensor:
        return x @ self.turn.t()

    def on_output(self, y: Tensor) -> Tensor:
        return y * self.factors

    def transform(self, weight: Tensor) -> Tensor:
        return self.factors[:, None] * weight @ self.turn
