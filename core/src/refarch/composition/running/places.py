"""The places of a model where parts of a composition are bound, and the groups that run there in their stead."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from refarch.composition.running.nodes import InnerMap, Leaf, Node, Several
from refarch.composition.running.rows import BatchRows, CallState
from refarch.composition.running.split import SplitNode
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.bindings.attention.seam import AttentionSeam
from refarch.engine.bindings.carrier import Carrier
from refarch.engine.bindings.dispatch import Dispatcher
from refarch.engine.bindings.inputs import InputsSeam
from refarch.engine.bindings.owner import Owner
from refarch.engine.bindings.seam import Seam
from refarch.engine.bindings.weight_map import Weights
from refarch.engine.layers.linear import part_rows, widths
from refarch.engine.slots.site import Site

_ORDER = (Dispatcher, AttentionSeam, InputsSeam)


@dataclasses.dataclass
class BoundPlace:
    """One place.

    Attributes:
        seam: what runs there.
        bindings: by part, innermost first.
        owner: the composition, if it is one's.
        group: what runs there for it.
    """

    seam: Seam
    bindings: dict[str, list[Any]]
    owner: Owner | None = None
    group: PlaceGroup | None = None

    @property
    def module(self) -> nn.Module:
        """The module that has the seam."""
        return self.seam.module

    @property
    def attends(self) -> bool:
        """Whether it is an attention function, at ``key_value``."""
        return isinstance(self.seam, AttentionSeam)

    @property
    def site(self) -> Site:
        """Of the first binding that is no carrier."""
        found: Site = next(b.site for own in self.bindings.values() for b in own if not isinstance(b, Carrier))
        return found

    @property
    def carries_only(self) -> bool:
        """Whether nothing happens here but what carriers note."""
        return all(isinstance(b, Carrier) for own in self.bindings.values() for b in own)

    def before(self) -> list[Any]:
        """What runs inside all parts: what was attached before the first of them."""
        if not isinstance(self.seam, Dispatcher):
            return []
        if self.group is not None:
            return self.seam.inner_to(self.group)
        running = {id(binding.group or binding) for own in self.bindings.values() for binding in own}
        places = [place for place, item in enumerate(self.seam.running) if id(item) in running]
        inside = self.seam.running[: min(places)]
        return [item for item in inside if not (isinstance(item, PlaceGroup) and item.owner is self.owner)]

    def widths(self) -> tuple[int, int]:
        """(width of what is read, width of what is returned)."""
        site = self.site
        if self.attends:
            assert site.entry is not None
            d_in, d_out = widths(site.entry.module)
            return d_in, len(part_rows(d_out, site.entry.part))
        if site.ref.slot.kind in ("layer", "embedding"):
            return site.shape.d_out, site.shape.d_out
        return widths(self.module)


def places_of(parts: Mapping[str, Adaptation], owner: Owner | None = None) -> list[BoundPlace]:
    """All places of some adaptations, each once.

    Args:
        parts: by the name that an expression has for them.
        owner: the composition, if they are one's.
    """
    seams: dict[Seam, None] = {}
    for binding in (binding for part in parts.values() for binding in part.bindings):
        seams[binding.seam] = None
        if binding.carrier is not None:
            assert binding.site.entry is not None
            seams[Dispatcher.there(binding.site.entry.module)] = None
    ordered = sorted(seams, key=lambda seam: _ORDER.index(type(seam)))  # type: ignore[arg-type]
    return [BoundPlace(seam, _by_part(seam, parts), owner) for seam in ordered]


def _by_part(seam: Seam, parts: Mapping[str, Adaptation]) -> dict[str, list[Any]]:
    """What runs at a seam, of what has joined it, by the part that it belongs to."""
    names = {id(part): name for name, part in parts.items()}
    found: dict[str, list[Any]] = {}
    for binding in seam.bindings:
        name = names.get(id(binding.owner))
        if name is not None and (isinstance(binding, Carrier) or binding.seam is seam):
            found.setdefault(name, []).append(binding)
    return found


class PlaceGroup:
    """What runs at a place for a composition.

    Args:
        owner: the composition.
        call: what it knows of the present call.
        place: where.
        root: the expression there.
    """

    def __init__(self, owner: Owner, call: CallState, place: BoundPlace, root: Node) -> None:
        self.owner, self.call, self.place, self.root = owner, call, place, root
        self.covered = [binding for leaf in root.leaves() for binding in leaf.bindings]
        self.carriers: list[Carrier] = []

    @property
    def enabled(self) -> bool:
        """Whether the composition and any part of it take part."""
        return self.owner.active and self.root.enabled

    def covers(self, binding: Any) -> bool:
        """Whether a binding is one of the parts'."""
        return binding.group is self

    def __call__(self, inner: InnerMap, x: Any, leaf: nn.Module | None) -> Tensor:
        """The composed map."""
        try:
            return self.root(inner, x, leaf)
        finally:
            for carrier in self.carriers:
                carrier.held = None

    def merged(self, weight: Tensor, bias: Tensor | None) -> Weights:
        """As of any node."""
        return self.root.merged(weight, bias)

    def weight_reason(self) -> str:
        """As of any node."""
        return self.root.weight_reason()

    def attach(self) -> None:
        """Run in the parts' place."""
        # What is inside may be asked for several times, too, be it of this composition or attached before.
        before = [getattr(item, "carrier", None) for item in self.place.before()]
        self.carriers = [*self.root.carriers(), *(carrier for carrier in before if carrier is not None)]
        for carrier in self.carriers:
            carrier.keeps = True
        self.place.group = self
        for binding in self.covered:
            binding.group = self
        self.place.seam.group(self)

    def detach(self) -> None:
        """Let the parts run by themselves again."""
        self.place.group = None
        for binding in self.covered:
            binding.group = None
        for carrier in self.carriers:
            carrier.keeps = False
        self.place.seam.ungroup(self)

    def tokens_by_row(self, size: int) -> list[Tensor]:
        """At ``inputs``: the tokens of each of so many rows, [l, d], the last part's first."""
        rows = self.call.rows
        names = (None,) * size if rows is None else rows.names
        made: dict[tuple[int, ...], Tensor] = {}
        found = []
        width = self.place.site.shape.d_out
        for name in names:
            chosen = tuple(i for i, leaf in enumerate(self.root.leaves()) if leaf in _chosen(self.root, name, rows))
            if chosen not in made:
                own = [b.function() for i in reversed(chosen) for b in reversed(self.root.leaves()[i].bindings)]
                like = next(iter(self.place.module.parameters()))
                made[chosen] = torch.cat(own) if own else like.new_zeros(0, width)
            found.append(made[chosen])
        if rows is not None:
            order = rows.among(size).tolist()
            times = len(order) // len(names)
            found = [own for own in found for _ in range(times)]
        return found


def _chosen(node: Node, name: str | None, rows: BatchRows | None) -> list[Leaf]:
    """The parts at ``inputs`` that are a row's, in order."""
    if isinstance(node, Leaf):
        return [node] if node.enabled else []
    assert isinstance(node, Several)
    if isinstance(node, SplitNode):
        node.require(rows)
        term = None if name is None else node.member.get(name)
        return [leaf for index, own in node.active() if index == term for leaf in _chosen(own, name, rows)]
    return [leaf for _, own in node.active() for leaf in _chosen(own, name, rows)]
