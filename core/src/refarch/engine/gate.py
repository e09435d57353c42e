"""The gate of a gated addition."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refarch.architecture import Gate
from refarch.errors import CompositionError

_ACTIVATIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "identity": lambda x: x}


class GateModule(nn.Module):
    """g = activation(bias), or g = activation(weight . x + bias) for each token or each example.

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

    def forward(self, x: Tensor) -> Tensor:
        """x: [b, t, width] -> g, broadcastable to [b, t, d_out].

        Raises:
            CompositionError: a gate by example gets all tokens without a batch axis.
        """
        if self.weight is None:
            return self.value()
        a = x @ self.weight + self.bias  # b t
        if self.by == "example" and a.ndim < 2:
            raise CompositionError(
                "a gate by example needs activations with a batch axis, but this layer gets the tokens of all examples"
                " in one row (OPT's feed-forward layers do)",
                "choose other slots, or a gate by token",
            )
        if self.by == "example":
            a = a.mean(dim=1, keepdim=True)  # b 1
        return _ACTIVATIONS[self.activation](a).unsqueeze(-1)  # b t 1
