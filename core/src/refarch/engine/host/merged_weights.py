"""The weights that something was merged into, and what stood there before."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from refarch.engine.host import selection
from refarch.engine.layers.linear import write_weight
from refarch.errors import CompositionError

if TYPE_CHECKING:
    from refarch.composition.composition import Composition
    from refarch.engine.adaptation.adaptation import Adaptation

    Owner: TypeAlias = Adaptation | Composition
    """What is merged."""


_KEY = "_refarch_merged"


Kept = list[tuple[nn.Module, Tensor, Tensor | None]]


class Merged:
    """What one merge kept aside: originals by module, and selected parameters by path."""

    def __init__(self, weights: Kept, selected: dict[str, Tensor]) -> None:
        self.weights, self.selected = weights, selected


def _overlap(one: Merged, other: Merged) -> bool:
    """Whether two merges have written into the same weights."""
    modules = {id(module) for module, _, _ in one.weights} & {id(module) for module, _, _ in other.weights}
    return bool(modules or one.selected.keys() & other.selected.keys())


def _log(adaptation: Owner) -> list[tuple[Owner, Merged]]:
    found: list[tuple[Owner, Merged]] = adaptation.model.__dict__.setdefault(_KEY, [])
    return found


def copies_in_place(model: nn.Module) -> set[int]:
    """The copies that selections have put in the place of base parameters, by identity."""
    return {id(item.current) for item in model.__dict__.get(selection._KEY, {}).values()}


def tied(model: nn.Module) -> dict[int, str]:
    """Parameters that stand in several places, with those places."""
    places: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append(f"{path}.{name}")
    return {key: " and ".join(names) for key, names in places.items() if len(names) > 1}


def keep(owner: Owner, kept: Kept) -> None:
    """Note what stood in weights before something was merged into them."""
    _log(owner).append((owner, Merged(kept, {})))


@torch.no_grad()
def give_back(owner: Owner) -> Merged:
    """Put back what stood in the weights that something was merged into, and forget it.

    Raises:
        CompositionError: something else was merged into them since, or trains a copy of what they are now.
    """
    log = _log(owner)
    position = next(i for i, (other, _) in enumerate(log) if other is owner)
    own = log[position][1]
    for later, merged in log[position + 1 :]:
        if _overlap(own, merged):
            raise CompositionError(
                f"{later.name!r} was merged into the same weights since", f"unmerge {later.name!r} first"
            )
    _refuse_copies(owner, own)
    for module, weight, bias in own.weights:
        write_weight(module, weight, bias)
    _forget(owner, log)
    return own


def _refuse_copies(adaptation: Owner, merged: Merged) -> None:
    """Where a selection has put a copy of a merged weight since, writing the original back would overwrite that."""
    names = {id(parameter): path for path, parameter in adaptation.model.named_parameters()}
    written = [p for module, _, _ in merged.weights for p in module._parameters.values() if p is not None]
    paths = {names[id(parameter)] for parameter in written} | merged.selected.keys()
    for path, item in adaptation.model.__dict__.get(selection._KEY, {}).items():
        if path in paths:
            owner = item.copies[-1][0].name
            raise CompositionError(
                f"adaptation {owner!r} trains a copy of {path}, which was made from the merged weight",
                f"detach {owner!r} first",
            )


def _forget(adaptation: Owner, log: list[tuple[Owner, Merged]]) -> None:
    log[:] = [(owner, merged) for owner, merged in log if owner is not adaptation]
    if not log:
        del adaptation.model.__dict__[_KEY]
