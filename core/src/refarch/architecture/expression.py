"""Expressions of composition: how finetuned modules are combined, as a typed and nestable spec. No torch.

An expression is written as text, or as the same in JSON or YAML, where a part's name stands for itself::

    stack(prompt, sum(lora-a: 0.5, lora-b: 0.5))
    {"op": "stack", "terms": [{"of": "prompt"}, {"of": {"op": "sum", "terms": [...]}}]}

With F the map so far, and a part's own map F -> e(F), the *running* operators compute in every forward pass

=========  ======================================================================
stack      e_n(... e_1(F)): in order, the last one outermost
sum        F + sum_i w_i (e_i(F) - F)
route      F + sum_i g_i(x) (e_i(F) - F), with g from a router
fuse       F + sum_i a_i V (e_i(F) - F), with a from attention over the parts
split      e_i(F) for the rows of the batch that are i's
=========  ======================================================================

The *weight* operators (average, linear, ties, dare, svd, concat) are computed once: what they make of their parts is
one ordinary adaptation. So a weight operator may stand inside a running one, and not the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from refarch.architecture.grammar import PART, parse
from refarch.architecture.spec import Spec, explain
from refarch.errors import SpecError, did_you_mean

PartName = Annotated[str, StringConstraints(pattern=rf"^{PART}$")]
"""The name of an adaptation: letters, digits, hyphens, underscores."""
RoutedBy = Literal["token", "example", "task"]
Density = Annotated[float, Field(gt=0, le=1)]


class Term(Spec):
    """One of the things that an operator combines."""

    of: Expression
    """The part's name, or an expression."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Its weight, where the operator has weights."""
    label: PartName | None = None
    """By which rows, gates and messages call it; the part's own name when left out."""

    @property
    def name(self) -> str:
        """The label; else the part's name; else the expression as text."""
        return self.label or to_text(self.of)


def _terms(value: Any) -> Any:
    """Terms in their short forms: a name or expression for itself, a mapping from name to weight for weighted names."""
    if isinstance(value, Mapping):
        value = [{"of": name, "weight": weight} for name, weight in value.items()]
    if not isinstance(value, (list, tuple)):
        return value
    plain = (Term,)
    return [
        item if isinstance(item, plain) or (isinstance(item, Mapping) and "of" in item) else {"of": item}
        for item in value
    ]


class Operator(Spec):
    """What all operators share."""

    terms: Annotated[tuple[Term, ...], BeforeValidator(_terms)] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Operator:
        names = [term.name for term in self.terms]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} stands twice in one operator; combine each part once, or give weights")
        return self

    def __str__(self) -> str:
        return to_text(self)  # type: ignore[arg-type]


class _Unweighted(Operator):
    """An operator whose terms have no weights."""

    @model_validator(mode="after")
    def _no_weights(self) -> _Unweighted:
        weighted = next((term.name for term in self.terms if term.weight != 1), None)
        if weighted is not None:
            raise ValueError(f"{self.op} takes no weights, but {weighted!r} has one; write sum({weighted}: w) for it")  # type: ignore[attr-defined]
        return self


class Stack(_Unweighted):
    """In order: what attaching one after another computes. The last one is outermost."""

    op: Literal["stack"] = "stack"


class Sum(Operator):
    """The weighted sum of what the parts change. With one part: that part scaled, or negated."""

    op: Literal["sum"] = "sum"


class Route(_Unweighted):
    """The sum with weights that depend on the input.

    ``gate="learned"``: softmax of a linear map of what the layer reads, for each token or for the mean of an example's
    real tokens, or a table with one row for each task. ``gate="arrow"``: zero-shot, by how much of the token lies in
    the direction that a part's update of the weight amplifies most (Ostapenko et al. 2024, arXiv 2405.11157).
    """

    op: Literal["route"] = "route"
    by: RoutedBy = "token"
    gate: Literal["learned", "arrow"] = "learned"
    top: int | None = Field(default=None, ge=1)
    """How many parts act on an input; all when left out."""
    renormalise: bool = True
    """Whether the chosen parts' weights are divided by their sum."""
    tasks: int | None = Field(default=None, ge=1)
    """Of routing by task: how many there are."""

    @model_validator(mode="after")
    def _consistent(self) -> Route:
        if (self.by == "task") != (self.tasks is not None):
            raise ValueError("routing by task, and no other, needs the number of tasks=")
        if self.gate == "arrow" and self.by == "task":
            raise ValueError("an arrow gate reads the input; routing by task does not")
        if self.top is not None and self.top > len(self.terms):
            raise ValueError(f"top={self.top}, but there are {len(self.terms)} parts to choose from")
        if self.top == 1 and self.renormalise and self.gate == "learned":
            raise ValueError(
                "one chosen part gets the weight 1 whatever the input, so nothing trains the gate; choose two or more,"
                " or renormalise=false"
            )
        return self


class Fuse(_Unweighted):
    """AdapterFusion (Pfeiffer et al. 2021, arXiv 2005.00247): trained attention over what the parts contribute."""

    op: Literal["fuse"] = "fuse"


class Split(_Unweighted):
    """Each row of the batch with one of the parts, or with none: a batch that mixes adaptations."""

    op: Literal["split"] = "split"


class _Weights(Operator):
    """A weight operator: computed once.

    Without ``rank`` it works on the parameters, which must have equal names and shapes. With it, on what the parts add
    to each weight matrix; the result is then the best update of that rank (truncated SVD).
    """

    rank: int | None = Field(default=None, ge=1)


class Average(_Weights, _Unweighted):
    """The mean."""

    op: Literal["average"] = "average"


class Linear(_Weights):
    """The weighted sum; task arithmetic (Ilharco et al. 2023, arXiv 2212.04089)."""

    op: Literal["linear"] = "linear"


class Ties(_Weights):
    """TIES (Yadav et al. 2023, arXiv 2306.01708): keep each part's largest values, elect a sign for each, and average
    those that agree.
    """

    op: Literal["ties"] = "ties"
    density: Density = 0.2
    """The fraction of each tensor's values that is kept."""


class Dare(_Weights):
    """DARE (Yu et al. 2024, arXiv 2311.03099): drop values at random, rescale the rest, and sum."""

    op: Literal["dare"] = "dare"
    density: Density = 0.5
    """The fraction of values that is kept."""
    seed: int = 0


class Svd(_Weights):
    """The weighted sum of updates of any techniques and ranks, as the best update of one rank."""

    op: Literal["svd"] = "svd"
    rank: int = Field(ge=1)


class Concat(_Weights):
    """Side by side: prompts and prefixes along their length; low-rank updates along their rank, which is their
    weighted sum, exactly.
    """

    op: Literal["concat"] = "concat"


RUNNING: tuple[type[Operator], ...] = (Stack, Sum, Route, Fuse, Split)
WEIGHT: tuple[type[Operator], ...] = (Average, Linear, Ties, Dare, Svd, Concat)
OPERATORS: dict[str, type[Operator]] = {cls.model_fields["op"].default: cls for cls in (*RUNNING, *WEIGHT)}
"""Every operator by its name in text."""
OPTIONS = {op: tuple(name for name in cls.model_fields if name not in ("op", "terms")) for op, cls in OPERATORS.items()}
"""What each of them takes beside its terms."""

AnyOperator = Annotated[
    Union[Stack, Sum, Route, Fuse, Split, Average, Linear, Ties, Dare, Svd, Concat],  # noqa: UP007
    Field(discriminator="op"),
]


def _read(value: Any) -> Any:
    """Text and plain data into operators, with errors that name the operator and not pydantic's union."""
    if isinstance(value, str):
        return value if re.fullmatch(PART, value) else parse_expression(value)
    if isinstance(value, Operator):
        return value
    if not isinstance(value, Mapping):
        raise SpecError(f"an expression is a part's name or an operator, not {value!r}")
    op = value.get("op")
    if op not in OPERATORS:
        raise SpecError(f"there is no operator {op!r}", did_you_mean(str(op), OPERATORS))
    try:
        return OPERATORS[op].model_validate(value)
    except ValidationError as error:
        raise explain(error, OPERATORS[op], f"{op}(...)") from None


Expression = Annotated[Union[PartName, AnyOperator], BeforeValidator(_read)]  # noqa: UP007
"""A part's name, or an operator."""


Term.model_rebuild()
for _cls in (*RUNNING, *WEIGHT):
    _cls.model_rebuild()


class Composed(Spec):
    """An expression on its own, as a file holds it."""

    expression: Expression


def read_expression(value: Any) -> str | Operator:
    """An expression from text, from plain data (JSON, YAML), or as it is.

    Raises:
        SpecError: it does not parse or validate; running operators stand inside weight operators.
    """
    try:
        found = Composed.model_validate({"expression": value}).expression
    except ValidationError as error:
        raise explain(error, Composed, "the expression") from None
    except RecursionError:
        raise SpecError("the expression nests too deep to be read") from None
    _check_nesting(found)
    return found


def _check_nesting(expression: str | Operator, inside: str = "") -> None:
    if isinstance(expression, str):
        return
    op = expression.op  # type: ignore[attr-defined]
    if inside and not isinstance(expression, WEIGHT):
        raise SpecError(
            f"{op} stands inside {inside}, which combines weights once, while {op} computes in every forward pass",
            f"put {inside} inside {op}, or use a weight operator (linear, svd) in place of {op}",
        )
    for term in expression.terms:
        _check_nesting(term.of, op if isinstance(expression, WEIGHT) else "")


def parts(expression: str | Operator) -> tuple[str, ...]:
    """The names of all parts, each once, in the order in which they stand."""
    return tuple(dict.fromkeys(_parts(expression)))


def _parts(expression: str | Operator) -> Iterator[str]:
    if isinstance(expression, str):
        yield expression
        return
    for term in expression.terms:
        yield from _parts(term.of)


def operators(expression: str | Operator) -> Iterator[Operator]:
    """All operators of an expression, from the outside in."""
    if isinstance(expression, Operator):
        yield expression
        for term in expression.terms:
            yield from operators(term.of)


def to_text(expression: str | Operator) -> str:
    """The expression as text; parsing it gives an equal one."""
    if isinstance(expression, str):
        return expression
    inside = []
    for term in expression.terms:
        label = f"{term.label}=" if term.label else ""
        weight = "" if term.weight == 1 else f": {term.weight:g}" if float(f"{term.weight:g}") == term.weight else None
        inside.append(f"{label}{to_text(term.of)}{f': {term.weight!r}' if weight is None else weight}")
    for name, field in type(expression).model_fields.items():
        value = getattr(expression, name)
        if name not in ("op", "terms") and (value != field.default or field.is_required()):
            inside.append(f"{name}={str(value).lower() if isinstance(value, bool) else value}")
    return f"{expression.op}({', '.join(inside)})"  # type: ignore[attr-defined]


def parse_expression(text: str) -> str | Operator:
    """An expression from its text.

    Raises:
        SpecError: with the place where it stops making sense, or the value that an operator does not take.
    """
    return _read(parse(text, OPTIONS))
