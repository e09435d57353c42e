"""Merging: write a map into base weights where the algebra says that it is one, and take it out again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from refarch.engine.bindings.binding import Binding
from refarch.engine.bindings.carrier import Carrier
from refarch.engine.bindings.dispatch import Dispatcher
from refarch.engine.bindings.module import ModuleBinding
from refarch.engine.host import selection
from refarch.engine.host.attachment import Attachment
from refarch.engine.host.merged_weights import NewWeight, give_back, not_its_own, write_merged
from refarch.engine.layers.linear import bias_of, read_weight
from refarch.engine.layers.quantised import quantised
from refarch.errors import CompositionError

Copies = Mapping[str, nn.Parameter]


def reasons(owner: Attachment, bindings: Sequence[Binding], copies: Copies, in_memory: bool = True) -> list[str]:
    """Why something cannot be merged into the base weights; empty if it can, exactly.

    Args:
        owner: what is to be merged.
        bindings: its own.
        copies: what it selects, by path.
        in_memory: whether a weight that is not in memory counts as a reason.
    """
    found = []
    foreign = not_its_own(owner.model)
    for binding in bindings:
        reason = binding.merge_reason(in_memory)
        if not reason and isinstance(binding, ModuleBinding):
            written = (foreign(binding.site.end.module, name) for name in binding.weights.writes())
            reason = next(filter(None, written), "") or _order(binding)
        if reason:
            found.append(f"{binding.site.address}: {reason}")
    for path in copies:
        owners = [other for other, _ in selection.selected(owner.model)[path].copies]
        if len(owners) > 1:
            found.append(f"{path}: several adaptations select it ({', '.join(other.name for other in owners)})")
    return found


def _order(binding: ModuleBinding) -> str:
    """Why something that was attached before has to be merged or detached first; empty if it has not."""
    for other in Dispatcher.there(binding.site.end.module).inner_to(binding):
        if isinstance(other, Carrier) and binding.site.ref.side == "input":
            return (
                f"adaptation {other.owner.name!r} was attached before and reads this layer's input as rescaled here;"
                f" detach {other.owner.name!r} first"
            )
        if not isinstance(other, (ModuleBinding, Carrier)):
            if other.owner.state == "merged":
                continue  # it is in the weights already
            return "a composition was attached before and runs inside it; detach that first"
        if (
            isinstance(other, ModuleBinding)
            and other.owner is not binding.owner
            and not binding.weights.commutes(other.weights)
        ):
            return (
                f"adaptation {other.owner.name!r} ({other.spec.integration}) was attached before and does not commute"
                f" with {binding.spec.integration}; merge {other.owner.name!r} first"
            )
    return ""


def _instead(bindings: Sequence[Binding]) -> str:
    """What is safe in place of merging."""
    keep = "keep it attached: the model computes the same with it, at the cost of the extra operations"
    blocked = [binding for binding in bindings if binding.merge_reason()]
    if not all(not binding.weight_reason() and quantised(binding.site.end.module) for binding in blocked):
        return keep
    return keep + (
        "; or load the base without quantisation, refarch.load the saved adaptation onto that, and merge there (the"
        " merged model then computes without the quantisation's error, in which the adaptation was trained)"
    )


@torch.no_grad()
def merge(owner: Attachment, bindings: Sequence[Binding], copies: Copies) -> None:
    """Write bindings and copies into the base weights, and take them off the model.

    Raises:
        CompositionError: the algebra does not allow it; names the slot and the reason. Nothing was changed.
    """
    refuse_unmergeable(owner, reasons(owner, bindings, copies), _instead(bindings))
    by_module: dict[nn.Module, list[ModuleBinding]] = {}
    for binding in bindings:
        assert isinstance(binding, ModuleBinding)
        by_module.setdefault(binding.site.end.module, []).append(binding)
    _refuse_not_finite(owner, copies)
    merged = write_merged(owner, [_new_weight(module, own) for module, own in by_module.items()])
    for binding in bindings:
        binding.detach(owner.model)
    merged.selected = selection.commit(owner.model, owner)
    selection.release(owner.model, owner)


def _refuse_not_finite(owner: Attachment, copies: Copies) -> None:
    """Copies are written over the base's parameters as they are."""
    bad = [path for path, copy in copies.items() if not bool(torch.isfinite(copy).all())]
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise CompositionError(
            f"{owner.noun} {owner.name!r} holds values that are not finite, in {bad[0]}{more}; nothing was changed",
            "load it from an earlier checkpoint",
        )


def refuse_unmergeable(owner: Attachment, problems: Sequence[str], instead: str) -> None:
    """Stop before anything is written.

    Raises:
        CompositionError: there are reasons against it.
    """
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CompositionError(
            f"{owner.noun} {owner.name!r} does not merge: " + "; ".join(problems[:3]) + more, instead
        )


def _new_weight(module: nn.Module, bindings: Sequence[ModuleBinding]) -> NewWeight:
    """What a layer's weight becomes by its bindings, one after another."""
    bias = bias_of(module)
    weight, bias = read_weight(module).float(), None if bias is None else bias.float()
    for binding in bindings:
        weight, bias = binding.merged(weight, bias)
    return NewWeight(bindings[0].site.address, module, weight, bias)


@torch.no_grad()
def unmerge(owner: Attachment, bindings: Sequence[Binding], copies: Copies) -> None:
    """Put the base weights back, bit for bit, and bind the functions again.

    Raises:
        CompositionError: another adaptation was merged into the same weights since.
    """
    own = give_back(owner)
    parameters = dict(owner.model.named_parameters())
    for path, tensor in own.selected.items():
        parameters[path].copy_(tensor)
    for binding in bindings:
        binding.attach(owner.model)
        _innermost(binding)
    selection.put_copies(owner.model, owner, {path: parameters[path] for path in copies}, copies)


def _innermost(binding: Binding) -> None:
    """A merged map is inside all others; unmerged, it goes on being there, after the adaptation's own before it."""
    dispatcher = Dispatcher.there(binding.site.end.module)
    own = [other for other in dispatcher.bindings if other.owner is binding.owner]
    dispatcher.move(binding, len(own) - 1)
