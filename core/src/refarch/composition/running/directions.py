"""What a part does to a weight: the matrix that it adds, and the direction that this amplifies most."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from refarch.composition.running.nodes import Leaf, Node
from refarch.composition.running.places import BoundPlace
from refarch.engine.bindings.module import ModuleBinding
from refarch.engine.bindings.weight_map import changes_weights
from refarch.engine.functions.low_rank import LowRank
from refarch.engine.layers.linear import bias_of, matrix
from refarch.errors import CompositionError


def first_direction(node: Node, place: BoundPlace, inside: list[Any]) -> Tensor:
    """The first right singular vector of what a term adds to the weight of a place, [d_in].

    Raises:
        CompositionError: the term is no weight there.
    """
    factors = _factors(node)
    if factors is not None:
        up, down = factors
        triangle = torch.linalg.qr(up.float()).R  # r r
        return torch.linalg.svd(triangle @ down.float(), full_matrices=False).Vh[0]
    return torch.linalg.svd(added(node, place, inside)[0], full_matrices=False).Vh[0]


def _factors(node: Node) -> tuple[Tensor, Tensor] | None:
    """Up [d_out, r] and down [r, d_in] of a term that is one low-rank update of a whole weight; else None."""
    if not isinstance(node, Leaf) or len(node.bindings) != 1:
        return None
    binding = node.bindings[0]
    if not isinstance(binding, ModuleBinding) or binding.site.end.part is not None or not binding.parallel:
        return None
    function = binding.function
    if not isinstance(function, LowRank) or type(function).delta is not LowRank.delta or binding.gate is not None:
        return None
    return function.up, function.down


def added(node: Node, place: BoundPlace, inside: list[Any]) -> tuple[Tensor, Tensor | None]:
    """What a term adds to the weight and bias of the map inside it, float32: [d_out, d_in] and [d_out].

    Raises:
        CompositionError: the term is no weight there.
    """
    reason = node.weight_reason()
    if reason:
        raise CompositionError(f"{place.site.end.path} has no matrix of this part: {reason}", "use a trained gate")
    weight, bias = effective(place, inside)
    own, own_bias = node.merged(weight, bias)
    return own - weight, None if bias is None or own_bias is None else own_bias - bias


def effective(place: BoundPlace, inside: list[Any]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the map inside a term, float32; the base's own where what is inside is no weight."""
    weight, bias = matrix(place.module).float(), bias_of(place.module)
    bias = None if bias is None else bias.float()
    before = [item for item in [*place.before(), *inside] if item.enabled and changes_weights(item)]
    if any(item.weight_reason() for item in before):
        return weight, bias
    for item in before:
        weight, bias = item.merged(weight, bias)
    return weight, bias
