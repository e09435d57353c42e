"""The gate of a gated addition."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from refarch.architecture import Gate

_ACTIVATIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "identity": lambda x: x}


class GateModule(nn.Module):
    """g = activation(bias), or g = activation(weight . x + bias) for each token, or its mean over an example's tokens.

    Args:
        spec: the gate's spec.
        width: width of what the module reads.

    Attributes:
        bias: [1]
        weight: [width], for a gate that depends on the input; zeros at the start.
    """

    def __init__(self, spec: Gate, width: int) -> None:
        super().__init__()
        self.by, self.convex = spec.by, spec.convex
        self.activation = spec.activation
        self.bias = nn.Parameter(torch.full((1,), spec.initial))
        self.weight = nn.Parameter(torch.zeros(width)) if spec.by != "learned" else None

    def value(self) -> Tensor:
        """G of a learned gate, [1]."""
        return _ACTIVATIONS[self.activation](self.bias)

    def forward(self, x: Tensor, mean: Callable[[Tensor], Tensor] | None) -> Tensor:
        """x: [b, t, width] -> g, broadcastable to [b, t, d_out].

        Args:
            x: what the module reads.
            mean: over the tokens of each example that are real, [b, t, 1] -> [b, 1, 1]; a gate by example needs it.
        """
        if self.weight is None:
            return self.value()
        g = _ACTIVATIONS[self.activation](x @ self.weight + self.bias).unsqueeze(-1)  # b t 1
        if self.by == "token":
            return g
        assert mean is not None
        return mean(g)  # b 1 1
