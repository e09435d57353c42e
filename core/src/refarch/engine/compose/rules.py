"""What cannot be composed, and why: found from the parts' properties before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from refarch.architecture import ModuleSpec
from refarch.architecture.expression import WEIGHT, Operator, Route, Split, Stack, parts, to_text
from refarch.engine.attending import AttendingBound
from refarch.engine.compose.nodes import Leaf, Node, Several, StackNode
from refarch.engine.compose.places import Group
from refarch.engine.integrate import Bound, changes_weights
from refarch.errors import CompositionError

Specs = Mapping[str, Sequence[ModuleSpec]]


class Obstacle(NamedTuple):
    """Why an operator cannot combine a part."""

    operator: str
    part: str
    slot: str
    property: str
    reason: str
    hint: str

    def __str__(self) -> str:
        return f"{self.operator}: part {self.part!r} at slot {self.slot!r} ({self.property}): {self.reason}"


def obstacles(expression: str | Operator, specs: Specs) -> Iterator[Obstacle]:
    """All reasons against an expression of running operators, from the parts' module specs alone."""
    if isinstance(expression, str):
        return
    for term in expression.terms:
        yield from obstacles(term.of, specs)
    if isinstance(expression, (Stack, *WEIGHT)):
        return
    op = str(expression.op)  # type: ignore[attr-defined]
    for term in expression.terms:
        for part in parts(term.of):
            for spec in specs[part]:
                for slot in spec.workspace:
                    found = _obstacle(expression, spec, slot)
                    if found is not None:
                        name, reason, hint = found
                        yield Obstacle(op, part, slot, name, reason, hint)


def _obstacle(operator: Operator, spec: ModuleSpec, slot: str) -> tuple[str, str, str] | None:
    kind = slot.removesuffix("?").partition(":")[0]
    if spec.integration == "selection":
        what = "for all rows alike" if isinstance(operator, Split) else "or the base's own; there is nothing to weigh"
        return (
            "integration form: selection",
            f"a trained copy takes a parameter's place, {what}",
            "combine the copies once, by linear(...) or average(...); or put the part into a stack around the operator",
        )
    if kind == "inputs" and not isinstance(operator, Split):
        return (
            "integration form: concatenation",
            "tokens before the sequence make another, longer one, which does not sum with the sequence without them",
            "combine prompts once, with average(...) or concat(...); or put the part into a stack around the operator",
        )
    if isinstance(operator, Route) and kind == "embedding" and operator.by != "task":
        return ("slot: embedding", "the layer reads token ids, which no gate is computed from", "route by task")
    if isinstance(operator, Route) and operator.gate == "arrow" and not _has_direction(spec):
        return (
            f"integration form: {spec.integration}; functional form: {spec.form}",
            "an arrow needs the matrix by which a part changes a weight, whose first right singular vector it is",
            'use a trained gate: route(..., gate="learned")',
        )
    return None


def _has_direction(spec: ModuleSpec) -> bool:
    linear = spec.form in ("linear", "vector") or spec.integration == "transformation"
    fixed = spec.inter == "fixed" and spec.positions is None and (spec.gate is None or spec.gate.by == "learned")
    return linear and fixed and spec.integration not in ("concatenation", "selection")


def refuse_impossible(expression: str | Operator, specs: Specs) -> None:
    """Stop before anything is built.

    Raises:
        CompositionError: with the operators, parts, slots and properties in conflict.
    """
    found = list(dict.fromkeys(obstacles(expression, specs)))
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        listed = "; ".join(str(each) for each in found[:3])
        raise CompositionError(f"{to_text(expression)} is impossible: {listed}{more}", found[0].hint)


def refuse_unreadable(groups: Sequence[Group]) -> None:
    """A transformation reads the weight of the map inside it: that map must be one.

    Raises:
        CompositionError: inside one there is something that is no weight.
    """
    for group in groups:
        for leaf in group.root.leaves():
            for position, binding in enumerate(leaf.bindings):
                if isinstance(binding, Bound) and _reads_weight(binding):
                    _refuse_inside(leaf, position, binding)


def _reads_weight(binding: Bound) -> bool:
    if binding.spec.integration != "transformation":
        return False
    function, whole = binding.function, binding.site.end.part is None
    return not (whole and (function.on_input is not None or function.on_output is not None))


def _refuse_inside(leaf: Leaf, position: int, binding: Bound) -> None:
    for inside in [*leaf.place.before(), *leaf.inside[position]]:
        reason = inside.algebra_reason() if changes_weights(inside) else ""
        if reason:
            raise CompositionError(
                f"{binding.site.address}: part {leaf.name!r} (integration form: transformation) reads the weight of"
                f" what is inside it, which is none: {reason}",
                "put it first in the stack, or next to the other and not around it",
            )


def refuse_asked_twice(groups: Sequence[Group]) -> None:
    """Attention of a part's own is noted for one call. An operator asks the map inside for each input that its terms
    make of the layer's, so a term that changes the input cannot stand around such a part there.

    Raises:
        CompositionError: with both parts and the slot.
    """
    for group in groups:
        for leaf, inside in _in_operators(group.root, []):
            for position, binding in enumerate(leaf.bindings):
                around = [*leaf.place.before(), *inside, *leaf.bindings[:position]] if _changes_input(binding) else []
                found = next((other for other in around if isinstance(other, AttendingBound)), None)
                if found is not None:
                    raise CompositionError(
                        f"{binding.site.address}: part {leaf.name!r} (integration form: {binding.spec.integration})"
                        f" changes what the layer reads, and {found.owner.name!r} inside it (functional form:"
                        " attention) can be asked for one input alone",
                        f"put {found.owner.name!r} around it, or take {leaf.name!r} out of the operator into a stack",
                    )


def _in_operators(node: Node, inside: list[Any], operator: bool = False) -> Iterator[tuple[Leaf, list[Any]]]:
    """The leaves that stand in an operator other than a stack, with what is inside them from stacks."""
    if isinstance(node, Leaf) and operator:
        yield node, inside
    if isinstance(node, Several):
        stacked = isinstance(node, StackNode)
        for _, term in node.terms:
            yield from _in_operators(term, inside, operator or not stacked)
            if stacked:
                inside = [*inside, *(binding for leaf in term.leaves() for binding in leaf.bindings)]


def _changes_input(binding: object) -> bool:
    """Whether a binding asks the map inside for another input than the layer's."""
    if not isinstance(binding, Bound):
        return False
    if binding.spec.integration == "rescaling":
        return binding.site.ref.side == "input"
    turns = binding.function.on_input is not None and binding.site.end.part is None
    return binding.spec.integration == "transformation" and turns
