"""What cannot be composed, and why: found from the parts' properties before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from refarch.architecture import ModuleSpec
from refarch.architecture.expression import WEIGHT, Operator, Route, Split, Stack, parts, to_text
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
