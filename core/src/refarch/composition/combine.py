"""Make several adaptations into one, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from refarch.architecture import TechniqueSpec
from refarch.architecture.expression import WEIGHT, Operator, Svd, Term, read_expression, to_text
from refarch.composition.parts import PartLike, Taken, bring_parts
from refarch.composition.weights.operators import make
from refarch.composition.weights.result import attach_result
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.host.container import refuse_part, unused_name
from refarch.errors import CompositionError, UsageError
from refarch.plugins.registry import Registry


def combine(
    model: PreTrainedModel,
    expression: Any,
    parts: Mapping[str, PartLike] | None = None,
    *,
    name: str | None = None,
    into: TechniqueSpec | str | None = None,
    keep: bool = False,
    trainable: bool = True,
    registry: Registry | None = None,
) -> Adaptation:
    """Make one adaptation of several by an expression of weight operators; it takes their place on the model.

    Args:
        model: the model.
        expression: text like ``ties(a: 1, b: 0.5, density=0.2, rank=16)``.
        parts: as of :func:`refarch.compose`.
        name: of the result; the operator's when left out.
        into: a technique whose functions are products of two matrices, for a result that is such an update of weights
            (LoRA, say, for what reads that alone); the core's own technique ``low-rank`` when left out.
        keep: leave the parts on the model, disabled, instead of detaching them.
        trainable: False for inference only.
        registry: where techniques are looked up.

    Raises:
        CompositionError: it is impossible for these parts; slots and properties in conflict
            are named. The model is as it was.
    """
    operator = read_expression(expression)
    if not isinstance(operator, WEIGHT):
        raise UsageError(
            f"{to_text(operator)} computes in every forward pass and makes no adaptation",
            "use refarch.compose, or a weight operator: average, linear, ties, dare, svd, concat",
        )
    spec = technique_of(into, registry)
    with bring_parts(model, operator, parts, trainable=trainable, registry=registry) as taken:
        for part in taken.found.values():
            refuse_part(part, "combine")
        label = unused_name(model, str(operator.op)) if name is None else name  # type: ignore[attr-defined]
        result = evaluate(operator, taken, label, spec, trainable)
    put_away(list(taken.found.values()), keep)
    return result


def technique_of(into: TechniqueSpec | str | None, registry: Registry | None) -> TechniqueSpec | None:
    """A technique by its name."""
    from refarch.plugins.registry import default_registry

    return (registry or default_registry()).technique(into) if isinstance(into, str) else into


def evaluate(operator: Operator, taken: Taken, name: str, into: TechniqueSpec | None, trainable: bool) -> Adaptation:
    """The result of an operator on the model, inner operators first; what these give does not stay."""
    parts, inner, terms = dict(taken.found), [], []
    try:
        for term in operator.terms:
            if isinstance(term.of, Operator):
                label = unused_name(taken.model, f"{name}-part")
                parts[label] = evaluate(term.of, taken, label, None, False)
                inner.append(parts[label])
                terms.append(Term(of=label, weight=term.weight, label=term.label))
            else:
                terms.append(term)
        flat = operator.model_copy(update={"terms": tuple(terms)})
        own = [parts[str(term.of)] for term in terms]
        return attach_result(make(flat, parts, into), own, name, trainable)
    finally:
        for adaptation in inner:
            adaptation.detach()


def put_away(parts: list[Adaptation], keep: bool) -> None:
    """What was combined no longer acts by itself."""
    for part in reversed(parts):
        if keep:
            part.enabled = False
        elif part.state == "attached":
            part.detach()


def to_low_rank(
    adaptation: Adaptation,
    rank: int,
    *,
    name: str | None = None,
    into: TechniqueSpec | str | None = None,
    keep: bool = False,
    registry: Registry | None = None,
) -> Adaptation:
    """What an adaptation adds to weights as the best update of one rank (truncated SVD), in the adaptation's place.

    :func:`refarch.judge` measures the error beforehand.

    Args:
        adaptation: any that changes weights of linear layers and does nothing else.
        rank: of the result.
        name: of the result.
        into: as of :func:`combine`.
        keep: leave the adaptation on the model, disabled.
        registry: where techniques are looked up.

    Raises:
        CompositionError: it does something else, too; the slots and properties are named.
    """
    if adaptation.state != "attached":
        raise CompositionError(f"adaptation {adaptation.name!r} is {adaptation.state}")
    operator = Svd(terms=(Term(of=adaptation.name),), rank=rank)
    label = name or unused_name(adaptation.model, f"{adaptation.name}-rank-{rank}")
    return combine(adaptation.model, operator, name=label, into=into, keep=keep, registry=registry)
