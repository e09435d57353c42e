"""The weights that something was merged into, and what stood there before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from refarch.engine.host.attachment import Attachment
from refarch.engine.host.selection import HOST, selected
from refarch.engine.layers.linear import bias_of, read_weight, write_weight
from refarch.errors import CompositionError


class NewWeight(NamedTuple):
    """What is to be written into one layer: a weight [d_out, d_in] and a bias [d_out]."""

    address: str
    module: nn.Module
    weight: Tensor
    bias: Tensor | None


class Merged:
    """What one merge kept aside: originals by module, and selected parameters by path."""

    def __init__(self, weights: list[tuple[nn.Module, Tensor, Tensor | None]]) -> None:
        self.weights = weights
        self.selected: dict[str, Tensor] = {}

    def overlaps(self, other: Merged) -> bool:
        """Whether both have written into the same weights."""
        modules = {id(module) for module, _, _ in self.weights} & {id(module) for module, _, _ in other.weights}
        return bool(modules or self.selected.keys() & other.selected.keys())


def merge_log(owner: Attachment) -> list[tuple[Attachment, Merged]]:
    """What was merged into a model's weights, in order."""
    found: list[tuple[Attachment, Merged]] = owner.model._modules[HOST].merge_log  # type: ignore[union-attr, assignment]
    return found


def not_its_own(model: nn.Module) -> Callable[[nn.Module, str], str]:
    """Asks of a layer's parameter why a merge must not write into it, because it is not the layer's alone; empty if it
    may.
    """
    places: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append(f"{path}.{name}")
    copies = {id(item.current) for item in selected(model).values()}

    def reason(module: nn.Module, name: str) -> str:
        parameter = module._parameters.get(name)
        if parameter is None:
            return ""
        if len(places[id(parameter)]) > 1:
            return f"its {name} is tied: it stands at {' and '.join(places[id(parameter)])}"
        if id(parameter) in copies:
            return f"a selection trains a copy of its {name}; merge or detach that first"
        return ""

    return reason


@torch.no_grad()
def write_merged(owner: Attachment, new: Sequence[NewWeight]) -> Merged:
    """Write merged weights, and keep aside what stood there before.

    Raises:
        CompositionError: one of them is not finite, which a half-precision weight may become only in its own dtype;
            nothing was changed.
    """
    for address, module, weight, bias in new:
        dtype = read_weight(module).dtype
        if not all(bool(torch.isfinite(t.to(dtype)).all()) for t in (weight, bias) if t is not None):
            raise CompositionError(f"{address}: the merged weight is not finite; nothing was changed")
    kept = []
    for _, module, weight, bias in new:
        before = bias_of(module)
        kept.append((module, read_weight(module).clone(), None if before is None else before.clone()))
        write_weight(module, weight, bias)
    merged = Merged(kept)
    merge_log(owner).append((owner, merged))
    return merged


@torch.no_grad()
def give_back(owner: Attachment) -> Merged:
    """Put back what stood in the weights that something was merged into, and forget it.

    Raises:
        CompositionError: something else was merged into them since, or trains a copy of what they are now.
    """
    log = merge_log(owner)
    position = next(i for i, (other, _) in enumerate(log) if other is owner)
    own = log[position][1]
    for later, merged in log[position + 1 :]:
        if own.overlaps(merged):
            raise CompositionError(
                f"{later.name!r} was merged into the same weights since", f"unmerge {later.name!r} first"
            )
    _refuse_copies(owner, own)
    for module, weight, bias in own.weights:
        write_weight(module, weight, bias)
    del log[position]
    return own


def keep_merged(owner: Attachment) -> None:
    """Let what was merged stay in the weights for good, and forget what stood there before.

    Raises:
        CompositionError: something else was merged into them before, and could still be taken out.
    """
    log = merge_log(owner)
    position = next(i for i, (other, _) in enumerate(log) if other is owner)
    for earlier, merged in log[:position]:
        if log[position][1].overlaps(merged):
            raise CompositionError(
                f"{earlier.noun} {earlier.name!r} was merged into the same weights before; unmerging it would take"
                " this one out too",
                f"commit {earlier.name!r} first",
            )
    del log[position]


def _refuse_copies(owner: Attachment, merged: Merged) -> None:
    """Where a selection has put a copy of a merged weight since, writing the original back would overwrite that."""
    names = {id(parameter): path for path, parameter in owner.model.named_parameters()}
    written = [p for module, _, _ in merged.weights for p in module._parameters.values() if p is not None]
    paths = {names[id(parameter)] for parameter in written} | merged.selected.keys()
    for path, item in selected(owner.model).items():
        if path in paths:
            name = item.copies[-1][0].name
            raise CompositionError(
                f"adaptation {name!r} trains a copy of {path}, which was made from the merged weight",
                f"detach {name!r} first",
            )
