"""A composition as weights: merge it where its algebra is one of weights, and write a plain model out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from refarch.composition.running.places import Group
from refarch.engine.bindings.module import Bound, Carrier
from refarch.engine.host.merged_weights import Kept, copies_in_place, tied
from refarch.engine.layers.linear import plain_reason, read_weight, write_weight
from refarch.errors import CompositionError

if TYPE_CHECKING:
    from refarch.composition.composition import Composition


def merge_reasons(composition: Composition) -> list[str]:
    """Why a composition cannot be merged into the base weights; empty if it can, exactly."""
    found = []
    twice, copied = tied(composition.model), copies_in_place(composition.model)
    for part in composition.parts.values():
        found += [f"{path}: {part.name!r} selects it; merge that part alone" for path in list(part.copies)[:1]]
    for group in composition.groups:
        if not group.place.carries_only:
            reason = _reason(group, twice, copied)
            if reason:
                found.append(reason)
    return found


def _reason(group: Group, twice: dict[int, str], copied: set[int]) -> str:
    place = group.place
    if place.kind != "module":
        binding = group.covered[0]
        return f"{binding.site.address}: {binding.merge_reason()}"
    reason = group.algebra_reason()
    if reason:
        return reason if reason.startswith(place.site.address) else f"{place.site.address}: {reason}"
    reason = plain_reason(place.module)
    if reason:
        return f"{place.site.address}: {reason}"
    for binding in group.covered:
        for name in binding.writes() if isinstance(binding, Bound) else ():
            parameter = place.module._parameters.get(name)
            if parameter is not None and id(parameter) in twice:
                return f"{place.site.address}: its {name} is tied: it stands at {twice[id(parameter)]}"
            if parameter is not None and id(parameter) in copied:
                return f"{place.site.address}: a selection trains a copy of its {name}; merge or detach that first"
    others = [item for item in place.before() if item.enabled and not isinstance(item, Carrier)]
    if others:
        name = getattr(others[0], "owner", others[0]).name
        return f"{place.site.address}: {name!r} was attached before and runs inside it; merge that first"
    return ""


@torch.no_grad()
def merge(composition: Composition) -> Kept:
    """Write the composed weights; returns what stood there before.

    Raises:
        CompositionError: it is no weight somewhere; nothing was changed.
    """
    problems = merge_reasons(composition)
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CompositionError(
            f"composition {composition.name!r} does not merge: " + "; ".join(problems[:3]) + more,
            "keep it attached: the model computes the same with it, at the cost of the extra operations",
        )
    new: Kept = []
    for group in composition.groups:
        if group.place.carries_only or not group.root.enabled:
            continue
        module = group.place.module
        bias = getattr(module, "bias", None)
        weight, moved = group.merged(read_weight(module).float(), None if bias is None else bias.float())
        if not all(
            bool(torch.isfinite(t.to(read_weight(module).dtype)).all()) for t in (weight, moved) if t is not None
        ):
            raise CompositionError(f"{group.place.site.address}: the merged weight is not finite; nothing was changed")
        new.append((module, weight, moved))
    kept: Kept = []
    for module, weight, moved in new:
        bias = getattr(module, "bias", None)
        kept.append((module, read_weight(module).clone(), None if bias is None else bias.clone()))
        write_weight(module, weight, moved)
    return kept
