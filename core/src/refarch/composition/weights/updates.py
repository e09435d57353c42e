"""What an adaptation adds to the weights of a model, slot by slot, as matrices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from refarch.architecture import Layers
from refarch.composition.running.places import BoundPlace, places_of
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.bindings.module import ModuleBinding
from refarch.engine.bindings.weight_map import changes_weights
from refarch.engine.functions.low_rank import LowRank
from refarch.engine.layers.linear import bias_of, matrix, take_part
from refarch.engine.slots.site import Site
from refarch.errors import CompositionError


@dataclasses.dataclass
class Update:
    """What is added at one slot of one layer.

    Attributes:
        delta: to the weight, [d_out, d_in], float32; that of ``factors`` where these are there.
        bias: to the bias, [d_out], or None.
        factors: up [d_out, r] and down [r, d_in], where it is a product.
    """

    delta: Tensor
    bias: Tensor | None = None
    factors: tuple[Tensor, Tensor] | None = None

    def norm(self) -> float:
        """The squared Frobenius norm, of weight and bias."""
        own = float(self.delta.double().square().sum())
        return own + (0.0 if self.bias is None else float(self.bias.double().square().sum()))


Updates = dict[str, Update]
"""By the address of the slot: ``encoder.0.attention.query``."""


def slot_address(site: Site) -> str:
    """Where a site is, whichever side of the slot it means."""
    return site.address.removesuffix("_input") if site.ref.side == "input" else site.address


def low_rank(binding: object) -> LowRank | None:
    """The function of a binding that adds a product of two matrices to a weight, and nothing else; else None."""
    if not isinstance(binding, ModuleBinding) or not isinstance(binding.function, LowRank):
        return None
    function = binding.function
    plain = type(function).delta is LowRank.delta and binding.parallel and binding.gate is None
    return function if plain and not binding.weight_reason() else None


def is_low_rank(part: Adaptation) -> bool:
    """Whether all that an adaptation does is to add products of two matrices to weights."""
    return bool(part.bindings) and not part.copies and all(low_rank(binding) is not None for binding in part.bindings)


def weight_reasons(part: Adaptation) -> list[str]:
    """Why what an adaptation does is no change of weights of linear layers; empty if it is."""
    found = [f"{path}: integration form: selection" for path in list(part.copies)[:1]]
    for binding in part.bindings:
        reason = binding.weight_reason() if isinstance(binding, ModuleBinding) else binding.merge_reason()
        if reason:
            found.append(f"{binding.site.address}: {reason}")
    return found


@torch.no_grad()
def updates(part: Adaptation) -> Updates:
    """What a part adds to the base's own weights, whatever else is attached.

    Raises:
        CompositionError: it does something else than that; the slots and properties are named.
    """
    reasons = weight_reasons(part)
    if reasons:
        raise CompositionError(
            f"what {part.name!r} does is no update of weights: {'; '.join(reasons[:3])}",
            "leave rank= out, so that parameters are combined; or combine in each forward pass, with sum(...)",
        )
    found: Updates = {}
    for place in places_of({part.name: part}):
        found |= _at(place, part)
    return found


def _at(place: BoundPlace, part: Adaptation) -> Updates:
    bindings = [binding for binding in place.bindings[part.name] if changes_weights(binding)]
    sites = {slot_address(binding.site): binding.site for binding in bindings}
    single = [low_rank(binding) for binding in bindings]
    found: Updates = {}
    if len(sites) == len(bindings) and all(function is not None for function in single):
        for binding, function in zip(bindings, single, strict=True):
            assert function is not None
            scale = function.scale if binding.spec.integration == "scaled addition" else 1.0
            up, down = (function.up * scale).float(), function.down.float()
            found[slot_address(binding.site)] = Update(up @ down, None, (up, down))
        return found
    weight, bias = matrix(place.module).float(), bias_of(place.module)
    own, own_bias = weight, None if bias is None else bias.float()
    for binding in bindings:
        own, own_bias = binding.merged(own, own_bias)
    for address, site in sites.items():
        delta = take_part(own - weight, site.end.part, 0)
        moved = None if own_bias is None or bias is None else take_part(own_bias - bias.float(), site.end.part)
        found[address] = Update(delta, moved)
    return found


def workspace(part_sites: dict[str, tuple[str, str, int]], counts: Mapping[Any, int]) -> tuple[list[str], Layers]:
    """The slots and layers that cover some sites.

    Args:
        part_sites: slot, stack and layer of each site, by address.
        counts: how many layers each stack has.
    """
    slots = sorted({f"{slot}?" for slot, _, _ in part_sites.values()})
    stacks = {stack for _, stack, _ in part_sites.values()}
    layers = {layer for _, _, layer in part_sites.values()}
    chosen = tuple(sorted(stacks)) if stacks != set(counts) else None
    everywhere = all(layers == set(range(counts[stack])) for stack in stacks)
    indices = None if everywhere else tuple(sorted(layers))
    return slots, Layers(indices=indices, stacks=chosen)  # type: ignore[arg-type]
