"""From an expression and the parts on a model to what runs at each place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from refarch.architecture.expression import Fuse, Operator, Route, Split, Stack, Sum, operators, to_text
from refarch.composition.running.directions import first_direction
from refarch.composition.running.nodes import Leaf, Node, StackNode, SumNode
from refarch.composition.running.places import BoundPlace, PlaceGroup, places_of
from refarch.composition.running.routes_and_fusions import FuseNode, Fusion, RouteGate, RouteNode
from refarch.composition.running.rows import CallState
from refarch.composition.running.split import SplitNode
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.bindings.attention.key_value import KeyValueBinding
from refarch.engine.bindings.call_context import SiteTokens
from refarch.engine.bindings.carrier import Carrier
from refarch.engine.bindings.dispatch import Dispatcher
from refarch.engine.bindings.module import ModuleBinding
from refarch.engine.bindings.owner import Owner
from refarch.errors import CompositionError, did_you_mean


class Builder:
    """Builds the groups of one composition.

    Args:
        owner: the composition.
        expression: how the parts are combined.
        call: what is known of the present call.
        parts: by the names that the expression has for them.

    Attributes:
        groups: what runs, by place.
        carriers: what routes at ``key_value`` read, with the module that it passes.
        tokens: what routes by example ask which tokens are real.
        combiners: the operators' own modules, by path.
    """

    def __init__(
        self, owner: Owner, expression: str | Operator, call: CallState, parts: Mapping[str, Adaptation]
    ) -> None:
        self.owner, self.expression, self.call, self.parts = owner, expression, call, parts
        self.attending = {
            name for name, part in parts.items() if any(b.spec.form == "attention" for b in part.bindings)
        }
        self.keys = {id(op): number for number, op in enumerate(operators(expression))}
        self.labels = _labels(expression)
        self.members = {id(op): _members(op) for op in operators(expression) if isinstance(op, Split)}
        self.alone: dict[int, set[int]] = {}
        self.groups: list[PlaceGroup] = []
        self.carriers: list[tuple[Any, Carrier]] = []
        self.tokens: list[SiteTokens] = []
        self.combiners: dict[str, Any] = {}
        self.arrows: list[tuple[RouteGate, list[tuple[int, Node]], BoundPlace, list[Any]]] = []
        self.dry = True

    def build(self) -> None:
        """All groups. First without keeping them, to see which terms of splits need all rows."""
        found = places_of(self.parts, self.owner)
        for place in found:
            self._node(self.expression, place, [])
        self.dry = False
        for place in found:
            root = self._node(self.expression, place, [])
            assert root is not None
            self.groups.append(PlaceGroup(self.owner, self.call, place, root))

    def attach(self) -> None:
        """Let run what was built, in the parts' place."""
        for module, carrier in self.carriers:
            Dispatcher.at(module).add(carrier)
        for tokens in self.tokens:
            tokens.attach()
        for group in self.groups:
            group.attach()

    def detach(self) -> None:
        """Let the parts run by themselves again."""
        for group in reversed(self.groups):
            group.detach()
        for tokens in self.tokens:
            tokens.detach()
        for module, carrier in self.carriers:
            Dispatcher.there(module).remove(carrier)

    def check_names(self, names: Sequence[str | None]) -> None:
        """Let rows be given to terms of a split alone.

        Raises:
            CompositionError: there is none of such a name, or several.
        """
        splits = list(self.members.values())
        known = set().union(*splits) if splits else set()
        for wrong in sorted({name for name in names if name is not None} - known):
            if not splits:
                raise CompositionError(
                    f"composition {self.owner.name!r} splits no batch: {to_text(self.expression)}",
                    "compose split(...)",
                )
            inside = wrong in names_in(self.expression)
            reason = "stands in several terms; give each term a label (label=...)" if inside else "is none of its terms"
            raise CompositionError(f"composition {self.owner.name!r}: {wrong!r} {reason}", did_you_mean(wrong, known))
        if not names:
            raise CompositionError("a batch without rows cannot be split")

    def _node(self, expression: str | Operator, place: BoundPlace, inside: list[Any]) -> Node | None:
        if isinstance(expression, str):
            bindings = place.bindings.get(expression)
            if not bindings:
                return None
            return Leaf(expression, bindings, self.call, inside, place, expression in self.attending)
        within, terms = list(inside), []
        for index, term in enumerate(expression.terms):
            node = self._node(term.of, place, within)
            if node is None:
                continue
            terms.append((index, node))
            if isinstance(expression, Stack):
                within = [*within, node]
        return self._operator(expression, terms, place, inside) if terms else None

    def _operator(
        self, expression: Operator, terms: list[tuple[int, Node]], place: BoundPlace, inside: list[Any]
    ) -> Node:
        if isinstance(expression, Stack):
            return terms[0][1] if len(terms) == 1 else StackNode(terms)
        if isinstance(expression, Split):
            key = self.keys[id(expression)]
            alone = self.alone.setdefault(key, set())
            if not _by_rows([*place.before(), *inside]):
                alone |= {index for index, node in terms if _changes_input(node)}
            return SplitNode(terms, key, self.members[id(expression)], self.call, alone)
        if isinstance(expression, Sum) or place.carries_only or self.dry:
            weights = [term.weight for term in expression.terms]
            if len(terms) == 1 and weights[terms[0][0]] == 1:
                return terms[0][1]
            return SumNode(terms, weights)
        path = f"{self.labels[id(expression)]}.{place.site.end.path}.combiner"
        if isinstance(expression, Route):
            return self._route(expression, terms, place, path, inside)
        assert isinstance(expression, Fuse)
        if place.attends and place.site.entry is None:
            raise CompositionError(
                f"{place.site.address}: the family's table names no query projection, whose width a fusion needs"
            )
        self.combiners[path] = fusion = Fusion(place.widths()[1])
        return FuseNode(terms, fusion)

    def _route(
        self, expression: Route, terms: list[tuple[int, Node]], place: BoundPlace, path: str, inside: list[Any]
    ) -> Node:
        site, carrier, tokens = place.site, None, None
        if place.attends and expression.by != "task":
            if site.entry is None:
                raise CompositionError(
                    f"{site.address}: the family's table names no query projection, whose input a route could read",
                    "route by task",
                )
            carrier = Carrier(self.owner)
            carrier.keeps = True
            self.carriers.append((site.entry.module, carrier))
        if expression.by == "example":
            if site.stack is None:
                raise CompositionError(f"{site.address}: no stack says there which tokens are real", "route by token")
            tokens = SiteTokens(self.owner, site)  # type: ignore[arg-type]
            self.tokens.append(tokens)
        router = RouteGate(expression, place.widths()[0])
        self.combiners[path] = router
        if expression.gate == "arrow":
            self.arrows.append((router, terms, place, inside))
        return RouteNode(terms, router, self.call, carrier, tokens)

    def aim(self) -> None:
        """Let each arrow know the directions of its parts, as their values are now."""
        for router, terms, place, inside in self.arrows:
            for index, node in terms:
                direction = first_direction(node, place, inside)
                router.weight[index] = direction.to(router.weight)


def _labels(expression: str | Operator) -> dict[int, str]:
    """A name for each operator, for the paths of its parameters: its label, or what it is, with a number from the
    second.
    """
    found: dict[int, str] = {}
    taken: set[str] = set()

    def visit(item: str | Operator, label: str | None) -> None:
        if isinstance(item, str):
            return
        wanted = label or str(item.op)  # type: ignore[attr-defined]
        name, number = wanted, 2
        while name in taken:
            name, number = f"{wanted}-{number}", number + 1
        taken.add(name)
        found[id(item)] = name
        for term in item.terms:
            visit(term.of, term.label)

    visit(expression, None)
    return found


def names_in(expression: str | Operator) -> set[str]:
    """The names by which what is in an expression can be called: parts and labels."""
    if isinstance(expression, str):
        return {expression}
    found = {term.label for term in expression.terms if term.label}
    return found.union(*(names_in(term.of) for term in expression.terms))


def _members(split: Operator) -> Mapping[str, int]:
    """The term of a split that each name means: one that a term has itself, or that is in one term alone."""
    found: dict[str, list[int]] = {}
    for index, term in enumerate(split.terms):
        for name in names_in(term.of):
            found.setdefault(name, []).append(index)
    own = {term.name: index for index, term in enumerate(split.terms)}
    return {name: places[0] for name, places in found.items() if len(places) == 1} | own


def _by_rows(inside: list[Any]) -> bool:
    """Whether what runs inside computes the same for some rows as for all: it has noted nothing for all of them."""
    for item in inside:
        own = item.leaves() if isinstance(item, Node) else item.root.leaves() if isinstance(item, PlaceGroup) else ()
        for binding in [b for leaf in own for b in leaf.bindings] or [item]:
            attends = not isinstance(binding, Carrier) and binding.spec.form == "attention"
            if attends or binding.carrier is not None:
                return False
            if not isinstance(item, Node) and binding.tokens is not None:
                return False
    return True


def _changes_input(node: Node) -> bool:
    """Whether a term asks for the map inside it at something else than it gets."""
    return any(_reads_other(binding) for leaf in node.leaves() for binding in leaf.bindings)


def _reads_other(binding: Any) -> bool:
    if isinstance(binding, KeyValueBinding):
        return binding.spec.integration == "concatenation"
    if not isinstance(binding, ModuleBinding):
        return False
    return binding.site.ref.side == "input" or binding.spec.integration == "transformation"
