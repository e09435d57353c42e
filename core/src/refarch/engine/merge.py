"""Merging: write a map into base weights where the algebra says that it is one, and take it out again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from refarch.engine import selection
from refarch.engine.dispatch import Dispatcher
from refarch.engine.integrate import Bound
from refarch.engine.linear import read_weight, write_weight
from refarch.errors import CompositionError

if TYPE_CHECKING:
    from refarch.engine.adaptation import Adaptation

_KEY = "_refarch_merged"
Kept = list[tuple[nn.Module, Tensor, Tensor | None]]


class Merged:
    """What one merge kept aside: originals by module, and selected parameters by path."""

    def __init__(self, weights: Kept, selected: dict[str, Tensor]) -> None:
        self.weights, self.selected = weights, selected


def _log(adaptation: Adaptation) -> list[tuple[Adaptation, Merged]]:
    found: list[tuple[Adaptation, Merged]] = adaptation.model.__dict__.setdefault(_KEY, [])
    return found


def reasons(adaptation: Adaptation) -> list[str]:
    """Why an adaptation cannot be merged exactly; empty if it can."""
    found = []
    tied = _tied(adaptation.model)
    copied = {id(item.current) for item in adaptation.model.__dict__.get(selection._KEY, {}).values()}
    for binding in adaptation.bound:
        reason = binding.merge_reason()
        if not reason and isinstance(binding, Bound):
            weight = binding.site.end.module._parameters.get("weight")
            if id(weight) in tied:
                reason = f"its weight is tied to {tied[id(weight)]}"
            elif id(weight) in copied:
                reason = "a selection trains a copy of its weight; merge or detach that first"
            else:
                reason = _order(binding)
        if reason:
            found.append(f"{binding.site.address}: {reason}")
    for path in adaptation.copies:
        owners = [other for other, _ in selection.selected(adaptation.model)[path].copies]
        if len(owners) > 1:
            found.append(f"{path}: several adaptations select it ({', '.join(o.name for o in owners)})")
    return found


def _order(binding: Bound) -> str:
    dispatcher = Dispatcher.of(binding.site.end.module)
    assert dispatcher is not None
    for other in dispatcher.inner_to(binding):
        if isinstance(other, Bound) and other.owner is not binding.owner and not binding.commutes(other):
            return (
                f"adaptation {other.owner.name!r} ({other.spec.integration}) was attached before and does not commute"
                f" with {binding.spec.integration}; merge {other.owner.name!r} first"
            )
    return ""


def _tied(model: nn.Module) -> dict[int, str]:
    """Parameters that stand in several places, with those places."""
    places: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append(f"{path}.{name}")
    return {key: " and ".join(names) for key, names in places.items() if len(names) > 1}


@torch.no_grad()
def merge(adaptation: Adaptation) -> None:
    """See :meth:`Adaptation.merge`."""
    problems = reasons(adaptation)
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CompositionError(
            f"adaptation {adaptation.name!r} does not merge: " + "; ".join(problems[:3]) + more,
            "keep it attached: the model computes the same with it, at the cost of the extra operations",
        )
    adaptation.base_fingerprint()  # of the base as it is before
    by_module: dict[nn.Module, list[Bound]] = {}
    for binding in adaptation.bound:
        assert isinstance(binding, Bound)
        by_module.setdefault(binding.site.end.module, []).append(binding)
    new: Kept = []
    for module, bindings in by_module.items():
        weight, bias = read_weight(module).float(), getattr(module, "bias", None)
        bias = None if bias is None else bias.float()
        for binding in bindings:
            weight, bias = binding.merged(weight, bias)
        if not bool(torch.isfinite(weight).all()):
            raise CompositionError(f"{bindings[0].site.address}: the merged weight is not finite; nothing was changed")
        new.append((module, weight, bias))
    kept: Kept = []
    for module, weight, bias in new:
        own_bias = getattr(module, "bias", None)
        kept.append((module, read_weight(module).clone(), None if own_bias is None else own_bias.clone()))
        write_weight(module, weight, bias)
    for binding in adaptation.bound:
        binding.detach()
    before = selection.commit(adaptation) if adaptation.copies else {}
    if adaptation.copies:
        selection.release(adaptation)
    adaptation.state = "merged"
    _log(adaptation).append((adaptation, Merged(kept, before)))


@torch.no_grad()
def unmerge(adaptation: Adaptation) -> None:
    """See :meth:`Adaptation.unmerge`."""
    log = _log(adaptation)
    position = next(i for i, (owner, _) in enumerate(log) if owner is adaptation)
    own = log[position][1]
    touched = {id(module) for module, _, _ in own.weights}
    for later, merged in log[position + 1 :]:
        overlap = touched & {id(module) for module, _, _ in merged.weights} or own.selected.keys() & merged.selected
        if overlap:
            raise CompositionError(
                f"adaptation {later.name!r} was merged into the same weights since", f"unmerge {later.name!r} first"
            )
    for module, weight, bias in own.weights:
        write_weight(module, weight, bias)
    parameters = dict(adaptation.model.named_parameters())
    for path, tensor in own.selected.items():
        parameters[path].copy_(tensor)
    trained = {path: copy.detach() for path, copy in adaptation.copies.items()}
    adaptation.state = "attached"
    for binding in adaptation.bound:
        binding.attach()
        _innermost(binding)
    adaptation.copies = selection.take(adaptation, {path: parameters[path] for path in trained})
    for path, tensor in trained.items():
        adaptation.copies[path].copy_(tensor)
    del log[position]


def _innermost(binding: object) -> None:
    """A merged map is inside all others; unmerged, it goes on being there, after the adaptation's own before it."""
    assert isinstance(binding, Bound)
    dispatcher = Dispatcher.of(binding.site.end.module)
    assert dispatcher is not None
    dispatcher.bindings.remove(binding)
    own = sum(1 for other in dispatcher.bindings if getattr(other, "owner", None) is binding.owner)
    dispatcher.bindings.insert(own, binding)


def commit(adaptation: Adaptation) -> None:
    """See :meth:`Adaptation.commit`."""
    log = _log(adaptation)
    log[:] = [(owner, merged) for owner, merged in log if owner is not adaptation]
    if not log:
        del adaptation.model.__dict__[_KEY]
    adaptation._forget()
