"""Merging: write a map into base weights where the algebra says that it is one, and take it out again."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn

from refarch.engine.bindings.dispatch import Dispatcher
from refarch.engine.bindings.module import Bound, Carrier
from refarch.engine.host import selection
from refarch.engine.host.merged_weights import (
    Kept,
    Merged,
    _forget,
    _log,
    _overlap,
    copies_in_place,
    give_back,
    tied,
)
from refarch.engine.layers.linear import read_weight, write_weight
from refarch.engine.layers.quantised import quantised
from refarch.errors import CompositionError

if TYPE_CHECKING:
    from refarch.composition.composition import Composition
    from refarch.engine.adaptation.adaptation import Adaptation

    Owner: TypeAlias = Adaptation | Composition
    """What is merged."""


def reasons(adaptation: Adaptation, in_memory: bool = True) -> list[str]:
    """See :meth:`Adaptation.merge_reasons`."""
    found = []
    twice = tied(adaptation.model)
    copied = copies_in_place(adaptation.model)
    for binding in adaptation.bound:
        reason = binding.merge_reason(in_memory)
        if not reason and isinstance(binding, Bound):
            reason = _not_its_own(binding, twice, copied) or _order(binding)
        if reason:
            found.append(f"{binding.site.address}: {reason}")
    for path in adaptation.copies:
        owners = [other for other, _ in selection.selected(adaptation.model)[path].copies]
        if len(owners) > 1:
            found.append(f"{path}: several adaptations select it ({', '.join(o.name for o in owners)})")
    return found


def _not_its_own(binding: Bound, twice: dict[int, str], copied: set[int]) -> str:
    """Why what the merge would write into does not belong to the layer alone; empty if it does."""
    for name in binding.writes():
        parameter = binding.site.end.module._parameters.get(name)
        if parameter is None:
            continue
        if id(parameter) in twice:
            return f"its {name} is tied: it stands at {twice[id(parameter)]}"
        if id(parameter) in copied:
            return f"a selection trains a copy of its {name}; merge or detach that first"
    return ""


def _order(binding: Bound) -> str:
    dispatcher = Dispatcher.of(binding.site.end.module)
    assert dispatcher is not None
    for other in dispatcher.inner_to(binding):
        if isinstance(other, Carrier) and binding.site.ref.side == "input":
            return (
                f"adaptation {other.owner.name!r} was attached before and reads this layer's input as rescaled here;"
                f" detach {other.owner.name!r} first"
            )
        if not isinstance(other, (Bound, Carrier)):
            if other.owner.status == "merged":  # type: ignore[attr-defined]
                continue  # it is in the weights already
            return "a composition was attached before and runs inside it; detach that first"
        if isinstance(other, Bound) and other.owner is not binding.owner and not binding.commutes(other):
            return (
                f"adaptation {other.owner.name!r} ({other.spec.integration}) was attached before and does not commute"
                f" with {binding.spec.integration}; merge {other.owner.name!r} first"
            )
    return ""


def _instead(adaptation: Adaptation) -> str:
    """What is safe in place of merging."""
    keep = "keep it attached: the model computes the same with it, at the cost of the extra operations"
    blocked = [binding for binding in adaptation.bound if binding.merge_reason()]
    if not all(isinstance(b, Bound) and not b.algebra_reason() and quantised(b.site.end.module) for b in blocked):
        return keep
    return keep + (
        "; or load the base without quantisation, refarch.load the saved adaptation onto that, and merge there (the"
        " merged model then computes without the quantisation's error, in which the adaptation was trained)"
    )


@torch.no_grad()
def merge(adaptation: Adaptation) -> None:
    """See :meth:`Adaptation.merge`."""
    problems = reasons(adaptation)
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CompositionError(
            f"adaptation {adaptation.name!r} does not merge: " + "; ".join(problems[:3]) + more,
            _instead(adaptation),
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
        dtype = read_weight(module).dtype  # a half-precision weight may overflow only here
        finite = [bool(torch.isfinite(tensor.to(dtype)).all()) for tensor in (weight, bias) if tensor is not None]
        if not all(finite):
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
    own = give_back(adaptation)
    parameters = dict(adaptation.model.named_parameters())
    for path, tensor in own.selected.items():
        parameters[path].copy_(tensor)
    adaptation.state = "attached"
    for binding in adaptation.bound:
        binding.attach()
        _innermost(binding)
    found = {path: parameters[path] for path in adaptation.copies}
    selection.take(adaptation, found, adaptation.copies)


def _innermost(binding: object) -> None:
    """A merged map is inside all others; unmerged, it goes on being there, after the adaptation's own before it."""
    assert isinstance(binding, Bound)
    dispatcher = Dispatcher.of(binding.site.end.module)
    assert dispatcher is not None
    own = [other for other in dispatcher.bindings if getattr(other, "owner", None) is binding.owner]
    dispatcher.move(binding, len(own) - 1)


def commit(adaptation: Adaptation) -> None:
    """See :meth:`Adaptation.commit`."""
    log = _log(adaptation)
    position = next(i for i, (owner, _) in enumerate(log) if owner is adaptation)
    for earlier, merged in log[:position]:
        if _overlap(log[position][1], merged):
            raise CompositionError(
                f"adaptation {earlier.name!r} was merged into the same weights before; unmerging it would take this"
                " one out too",
                f"commit {earlier.name!r} first",
            )
    _forget(adaptation, log)
    adaptation._forget(new_base=True)
