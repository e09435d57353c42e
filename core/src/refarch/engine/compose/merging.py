"""A composition as weights: merge it where its algebra is one of weights, and write a plain model out."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from refarch.engine.adaptation import Adaptation
from refarch.engine.attached import adaptations
from refarch.engine.compose.places import Group
from refarch.engine.integrate import Bound, Carrier
from refarch.engine.linear import plain_reason, read_weight, write_weight
from refarch.engine.merge import tied
from refarch.errors import CompositionError, SaveError

if TYPE_CHECKING:
    from refarch.engine.compose.composition import Composition

Kept = list[tuple[nn.Module, Tensor, Tensor | None]]


def merge_reasons(composition: Composition) -> list[str]:
    """Why a composition cannot be merged into the base weights; empty if it can, exactly."""
    found = []
    twice = tied(composition.model)
    for part in composition.parts.values():
        found += [f"{path}: {part.name!r} selects it; merge that part alone" for path in list(part.copies)[:1]]
    for group in composition.groups:
        if not group.place.carries_only:
            reason = _reason(group, twice)
            if reason:
                found.append(reason)
    return found


def _reason(group: Group, twice: dict[int, str]) -> str:
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


def unmerge(kept: Kept) -> None:
    """Put the weights back, bit for bit."""
    for module, weight, bias in kept:
        write_weight(module, weight, bias)


def export(item: Adaptation | Composition, folder: str | Path) -> Path:
    """Write the plain transformers model that computes what an adaptation or a composition does: merged in.

    ``from_pretrained`` reads it; the model in memory stays as it is.

    Args:
        item: what is merged. Other adaptations of the model must be disabled, as the plain model is without them.
        folder: made if need be.

    Raises:
        CompositionError: it does not merge exactly; or others are at work on the model.
        SaveError: writing failed.
    """
    own = [item] if isinstance(item, Adaptation) else list(item.parts.values())
    others = [one.name for one in adaptations(item.model) if one not in own and one.state == "attached" and one.active]
    if others:
        raise CompositionError(
            f"{', '.join(map(repr, others))} would not be in the exported model, which has {item.name!r} alone",
            "disable or merge them first",
        )
    item.merge()
    try:
        return _save_plain(item, Path(folder))
    finally:
        item.unmerge()


def _save_plain(item: Adaptation | Composition, folder: Path) -> Path:
    """The model without what is attached, first beside the folder and then into it."""
    model = item.model
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("refarch.")}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            model.save_pretrained(temporary, state_dict=own)
            for path in sorted(Path(temporary).iterdir(), key=lambda path: path.name == "config.json"):
                os.replace(path, folder / path.name)
    except (OSError, shutil.Error) as error:
        raise SaveError(f"could not write {folder}: {error}", "free some space or choose another folder") from error
    return folder
