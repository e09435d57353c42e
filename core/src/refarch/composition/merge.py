"""A composition as weights: merge it where its algebra is one of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from refarch.composition.running.places import PlaceGroup
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.adaptation.merge import refuse_unmergeable
from refarch.engine.bindings.carrier import Carrier
from refarch.engine.bindings.dispatch import Dispatcher
from refarch.engine.bindings.module import ModuleBinding
from refarch.engine.host.attachment import Attachment
from refarch.engine.host.merged_weights import NewWeight, not_its_own, write_merged
from refarch.engine.layers.linear import bias_of, plain_reason, read_weight


def reasons(owner: Attachment, parts: Mapping[str, Adaptation], groups: Sequence[PlaceGroup]) -> list[str]:
    """Why a composition cannot be merged into the base weights; empty if it can, exactly."""
    found = []
    foreign = not_its_own(owner.model)
    for part in parts.values():
        found += [f"{path}: {part.name!r} selects it; merge that part alone" for path in list(part.copies)[:1]]
    for group in groups:
        if not group.place.carries_only:
            reason = _reason(group, foreign)
            if reason:
                found.append(reason)
    return found


def _reason(group: PlaceGroup, foreign: Callable[[nn.Module, str], str]) -> str:
    place = group.place
    address = place.site.address
    if not isinstance(place.seam, Dispatcher):
        binding = group.covered[0]
        return f"{binding.site.address}: {binding.merge_reason()}"
    reason = group.weight_reason()
    if reason:
        return reason if reason.startswith(address) else f"{address}: {reason}"
    written = [
        foreign(place.module, name)
        for binding in group.covered
        if isinstance(binding, ModuleBinding)
        for name in binding.weights.writes()
    ]
    reason = plain_reason(place.module) or next(filter(None, written), "")
    if reason:
        return f"{address}: {reason}"
    others = [item for item in place.before() if item.enabled and not isinstance(item, Carrier)]
    if others:
        return f"{address}: {others[0].owner.name!r} was attached before and runs inside it; merge that first"
    return ""


@torch.no_grad()
def merge(owner: Attachment, parts: Mapping[str, Adaptation], groups: Sequence[PlaceGroup]) -> None:
    """Write the composed weights, and keep aside what stood there before.

    Raises:
        CompositionError: it is no weight somewhere; nothing was changed.
    """
    keep = "keep it attached: the model computes the same with it, at the cost of the extra operations"
    refuse_unmergeable(owner, reasons(owner, parts, groups), keep)
    write_merged(owner, [_new_weight(group) for group in groups if not group.place.carries_only and group.root.enabled])


def _new_weight(group: PlaceGroup) -> NewWeight:
    """What a layer's weight becomes."""
    module = group.place.module
    bias = bias_of(module)
    weight, bias = group.merged(read_weight(module).float(), None if bias is None else bias.float())
    return NewWeight(group.place.site.address, module, weight, bias)
