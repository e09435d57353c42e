"""What cannot run at a place, found before anything does: maps that are no weight, attention asked for twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from refarch.composition.running.nodes import Leaf, Node, Several, StackNode
from refarch.composition.running.places import PlaceGroup
from refarch.engine.bindings.attention.self_attention import SelfAttentionBinding
from refarch.engine.bindings.module import ModuleBinding
from refarch.engine.bindings.weight_map import changes_weights
from refarch.errors import CompositionError


def refuse_unreadable(groups: Sequence[PlaceGroup]) -> None:
    """A transformation reads the weight of the map inside it: that map must be one.

    Raises:
        CompositionError: inside one there is something that is no weight.
    """
    for group in groups:
        for leaf in group.root.leaves():
            for position, binding in enumerate(leaf.bindings):
                if isinstance(binding, ModuleBinding) and _reads_weight(binding):
                    _refuse_inside(leaf, position, binding)


def _reads_weight(binding: ModuleBinding) -> bool:
    if binding.spec.integration != "transformation":
        return False
    function, whole = binding.function, binding.site.end.part is None
    return not (whole and (function.on_input is not None or function.on_output is not None))


def _refuse_inside(leaf: Leaf, position: int, binding: ModuleBinding) -> None:
    for inside in [*leaf.place.before(), *leaf.inside[position]]:
        reason = inside.weight_reason() if changes_weights(inside) else ""
        if reason:
            raise CompositionError(
                f"{binding.site.address}: part {leaf.name!r} (integration form: transformation) reads the weight of"
                f" what is inside it, which is none: {reason}",
                "put it first in the stack, or next to the other and not around it",
            )


def refuse_asked_twice(groups: Sequence[PlaceGroup]) -> None:
    """Attention of a part's own is noted for one call. An operator asks the map inside for each input that its terms
    make of the layer's, so a term that changes the input cannot stand around such a part there.

    Raises:
        CompositionError: with both parts and the slot.
    """
    for group in groups:
        for leaf, inside in _in_operators(group.root, []):
            for position, binding in enumerate(leaf.bindings):
                around = [*leaf.place.before(), *inside, *leaf.bindings[:position]] if _changes_input(binding) else []
                found = next((other for other in around if isinstance(other, SelfAttentionBinding)), None)
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
    if not isinstance(binding, ModuleBinding):
        return False
    if binding.spec.integration == "rescaling":
        return binding.site.ref.side == "input"
    turns = binding.function.on_input is not None and binding.site.end.part is None
    return binding.spec.integration == "transformation" and turns
