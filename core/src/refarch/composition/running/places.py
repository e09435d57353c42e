"""The places of a model where parts of a composition are bound, and the groups that run there in their stead."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from refarch.composition.running.nodes import Inner, Leaf, Node, Several, Weights
from refarch.composition.running.rows import Rows
from refarch.composition.running.split import SplitNode
from refarch.engine.bindings.attention import seam as attention
from refarch.engine.bindings.attention.key_value import KeyValueBound, tokens_at
from refarch.engine.bindings.dispatch import Dispatcher
from refarch.engine.bindings.inputs import InputsBound, InputsSeam
from refarch.engine.bindings.module import Carrier
from refarch.engine.layers.linear import part_rows, widths
from refarch.engine.slots.site import Site

if TYPE_CHECKING:
    from refarch.composition.composition import Composition
    from refarch.engine.adaptation.adaptation import Adaptation


@dataclasses.dataclass
class Place:
    """One place.

    Attributes:
        kind: ``module``, ``key_value`` or ``inputs``.
        module: which has the dispatcher or the seam.
        bindings: by part, innermost first.
        owner: the composition, if it is one's.
        group: what runs there.
    """

    kind: str
    module: nn.Module
    bindings: dict[str, list[Any]]
    owner: Composition | None = None
    group: Group | None = None

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
        if self.kind != "module":
            return []
        dispatcher = Dispatcher.of(self.module)
        assert dispatcher is not None
        if self.group is not None:
            return dispatcher.inner_to(self.group)  # type: ignore[arg-type]
        own = [binding for bindings in self.bindings.values() for binding in bindings]
        running = {id(getattr(binding, "group", None) or binding) for binding in own}
        places = [place for place, item in enumerate(dispatcher.running) if id(item) in running]
        inside = dispatcher.running[: min(places)]
        return [item for item in inside if not (isinstance(item, Group) and item.owner is self.owner)]

    def widths(self) -> tuple[int, int]:
        """(width of what is read, width of what is returned)."""
        site = self.site
        if self.kind == "key_value":
            assert site.entry is not None
            d_in, d_out = widths(site.entry.module)
            return d_in, len(part_rows(d_out, site.entry.part))
        if site.ref.slot.kind in ("layer", "embedding"):
            return site.shape.d_out, site.shape.d_out
        return widths(self.module)


def find(parts: Mapping[str, Adaptation], owner: Composition | None = None) -> list[Place]:
    """All places of some adaptations, each once.

    Args:
        parts: by the name that an expression has for them.
        owner: the composition, if they are one's.
    """
    modules: dict[nn.Module, None] = {}
    attended: dict[nn.Module, None] = {}
    inputs: dict[nn.Module, None] = {}
    for binding in (binding for part in parts.values() for binding in part.bound):
        if isinstance(binding, InputsBound):
            inputs[binding.site.end.module] = None
            continue
        if isinstance(binding, KeyValueBound):
            attended[binding.site.end.module] = None
        else:
            modules[binding.site.end.module] = None
        if binding.carrier is not None:
            assert binding.site.entry is not None
            modules[binding.site.entry.module] = None
    found = [Place("module", module, _of(_dispatched(module), parts), owner) for module in modules]
    found += [Place("key_value", module, _of(tokens_at(module), parts), owner) for module in attended]
    found += [Place("inputs", module, _of(InputsSeam.of(module).bindings, parts), owner) for module in inputs]
    return found


def _dispatched(module: nn.Module) -> list[Any]:
    dispatcher = Dispatcher.of(module)
    assert dispatcher is not None
    return dispatcher.bindings


def _of(bindings: Sequence[Any], parts: Mapping[str, Adaptation]) -> dict[str, list[Any]]:
    names = {id(part): name for name, part in parts.items()}
    found: dict[str, list[Any]] = {}
    for binding in bindings:
        name = names.get(id(binding.owner))
        if name is not None:
            found.setdefault(name, []).append(binding)
    return found


class Group:
    """What runs at a place for a composition.

    Args:
        owner: the composition.
        place: where.
        root: the expression there.
    """

    def __init__(self, owner: Composition, place: Place, root: Node) -> None:
        self.owner, self.place, self.root = owner, place, root
        self.covered = [binding for leaf in root.leaves() for binding in leaf.bindings]
        self.carriers: list[Carrier] = []

    @property
    def enabled(self) -> bool:
        """Whether the composition and any part of it take part."""
        return self.owner.active and self.root.enabled

    def covers(self, binding: object) -> bool:
        """Whether a binding is one of the parts'."""
        return getattr(binding, "group", None) is self

    def __call__(self, inner: Inner, x: Any, leaf: nn.Module | None) -> Tensor:
        """The composed map."""
        try:
            return self.root(inner, x, leaf)
        finally:
            for carrier in self.carriers:
                carrier.held = None

    def merged(self, weight: Tensor, bias: Tensor | None) -> Weights:
        """As of any node."""
        return self.root.merged(weight, bias)

    def algebra_reason(self) -> str:
        """As of any node."""
        return self.root.algebra_reason()

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
        if self.place.kind == "module":
            dispatcher = Dispatcher.of(self.place.module)
            assert dispatcher is not None
            dispatcher.group(self)
        elif self.place.kind == "key_value":
            attention.group(self.place.module, self)
        else:
            InputsSeam.of(self.place.module).groups.append(self)

    def detach(self) -> None:
        """Let the parts run by themselves again."""
        self.place.group = None
        for binding in self.covered:
            binding.group = None
        for carrier in self.carriers:
            carrier.keeps = False
        if self.place.kind == "module":
            dispatcher = Dispatcher.of(self.place.module)
            assert dispatcher is not None
            dispatcher.ungroup(self)
        elif self.place.kind == "key_value":
            attention.ungroup(self.place.module, self)
        else:
            InputsSeam.of(self.place.module).groups.remove(self)

    def tokens_by_row(self, size: int) -> list[Tensor]:
        """At ``inputs``: the tokens of each of so many rows, [l, d], the last part's first."""
        rows = self.owner.state.rows
        names = (None,) * size if rows is None else rows.names
        made: dict[tuple[int, ...], Tensor] = {}
        found = []
        width = self.place.site.shape.d_out
        for name in names:
            chosen = tuple(i for i, leaf in enumerate(self.root.leaves()) if leaf in _chosen(self.root, name, rows))
            if chosen not in made:
                own = [b.function() for i in reversed(chosen) for b in reversed(self.root.leaves()[i].bindings)]
                like = next(iter(self.owner.model.parameters()))
                made[chosen] = torch.cat(own) if own else like.new_zeros(0, width)
            found.append(made[chosen])
        if rows is not None:
            order = rows.among(size).tolist()
            times = len(order) // len(names)
            found = [own for own in found for _ in range(times)]
        return found


def _chosen(node: Node, name: str | None, rows: Rows | None) -> list[Leaf]:
    """The parts at ``inputs`` that are a row's, in order."""
    if isinstance(node, Leaf):
        return [node] if node.enabled else []
    assert isinstance(node, Several)
    if isinstance(node, SplitNode):
        node.require(rows)
        term = None if name is None else node.member.get(name)
        return [leaf for index, own in node.active() if index == term for leaf in _chosen(own, name, rows)]
    return [leaf for _, own in node.active() for leaf in _chosen(own, name, rows)]
