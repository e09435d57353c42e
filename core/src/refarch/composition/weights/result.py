"""What a weight operator makes, and how it becomes an adaptation."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack

import torch
from torch import Tensor

from refarch.architecture import ConfiguredTechnique
from refarch.composition.weights.updates import Updates, low_rank
from refarch.engine.adaptation import plan as planning
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.adaptation.attach import device_of
from refarch.engine.checkpoints.format import Source
from refarch.engine.functions.function import fold
from refarch.errors import CompositionError


@dataclasses.dataclass
class WeightResult:
    """What an operator makes, before it is attached.

    Attributes:
        technique: of the result.
        values: its parameters, or None where they are ``updates``.
        updates: what it adds to each weight.
        like: the part whose structure it has, if it is one's.
        error: how far it is from the weighted sum of what its parts add to the weights, relative to that (Frobenius);
        None
            where parts are no updates of weights.
    """

    technique: ConfiguredTechnique
    values: dict[str, Tensor] | None = None
    updates: Updates | None = None
    like: Adaptation | None = None
    error: float | None = None


def attach_result(made: WeightResult, parts: list[Adaptation], name: str, trainable: bool) -> Adaptation:
    """The result as an adaptation of the parts' model."""
    first = made.like or parts[0]
    plan = planning.build(first.resolver, made.technique, first.seed, None, device_of(first.model))
    folded = made.like is not None and made.like.folded
    if folded:
        for insertion in plan.insertions:
            fold(insertion.function)
            insertion.function.resize({n: tuple(t.shape) for n, t in _own(first, insertion).items()})
    source = first.source if made.like is not None else Source()
    head = made.like is not None and made.like.train_head
    adaptation = Adaptation(
        first.model,
        first.resolver,
        plan,
        name=name,
        seed=first.seed,
        source=source,
        train_head=head,
        trainable=trainable,
        folded=folded,
    )
    with ExitStack() as undo:
        undo.callback(adaptation.detach)
        if made.values is not None:
            adaptation.load_state_dict(made.values)
        else:
            _fill(adaptation, made.updates or {})
        undo.pop_all()
    return adaptation


def _own(part: Adaptation, insertion: planning.Insertion) -> dict[str, Tensor]:
    here = (insertion.spec.name, insertion.site.address)
    found = next(item for item in part.insertions if (item.spec.name, item.site.address) == here)
    return dict(found.function.state_dict())


@torch.no_grad()
def _fill(adaptation: Adaptation, found: Updates) -> None:
    """Write factors into an adaptation that adds products; slots without any add nothing."""
    left = set(found)
    for binding in adaptation.bindings:
        function = low_rank(binding)
        if function is None or function.up.shape[1] < 1:
            raise CompositionError(
                f"technique {adaptation.technique.name!r} cannot hold an update of a weight at {binding.site.address}:"
                " it computes something else than a product of two matrices that is added"
            )
        scale = float(function.scale) if binding.spec.integration == "scaled addition" else 1.0
        function.up.zero_()
        update = found.get(binding.site.address)
        left.discard(binding.site.address)
        if update is None or update.factors is None:
            continue
        up, down = update.factors
        rank = up.shape[1]
        if rank > function.up.shape[1]:
            raise CompositionError(f"{binding.site.address}: rank {rank} does not fit into {function.up.shape[1]}")
        function.up[:, :rank] = (up / scale).to(function.up)
        function.down[:rank] = down.to(function.down)
    if left:
        raise CompositionError(
            f"technique {adaptation.technique.name!r} has no place for the update at {sorted(left)[0]}"
            + (f" and {len(left) - 1} more" if len(left) > 1 else ""),
            "leave into= out",
        )
