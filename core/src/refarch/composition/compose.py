"""The way to get a composition: name an expression, and say what its parts are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from transformers import PreTrainedModel

from refarch.architecture.expression import WEIGHT, Operator, Term, parts as names_of, read_expression
from refarch.composition.combine import evaluate, put_away
from refarch.composition.composition import Composition
from refarch.composition.parts import PartLike, Taken, bring_parts
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.host.container import taken_names, unused_name
from refarch.errors import CompositionError, UsageError
from refarch.plugins.registry import Registry


def compose(
    model: PreTrainedModel,
    expression: Any,
    parts: Mapping[str, PartLike] | None = None,
    *,
    name: str = "composition",
    seed: int = 0,
    trainable: bool = True,
    registry: Registry | None = None,
) -> Composition:
    """Combine adaptations of a model by an expression.

    Weight operators in it are computed now; what they give is a part under the operator's label, in the place of those
    that it was made of, which leave the model unless the expression names them elsewhere.

    Args:
        model: a transformers model.
        expression: text like ``stack(prompt, sum(lora-a: 0.5, lora-b: 0.5))``, the same as plain data, or a spec.
        parts: for names in the expression, what they are: a technique (a name or a spec) is attached, a folder (a path)
            is loaded. Other names are those of adaptations on the model.
        name: the composition's name on the model.
        seed: decides the initial values of routers, fusions and techniques that are attached.
        trainable: False for inference only.
        registry: where techniques are looked up.

    Raises:
        SpecError: the expression cannot be read.
        CompositionError: a part is missing, or the expression is impossible for these parts; the slots and
            properties in conflict are named. The model is as it was.
    """
    wanted = read_expression(expression)
    if isinstance(wanted, WEIGHT):
        raise UsageError(f"{wanted} makes one adaptation, once", "use refarch.combine")
    if name in taken_names(model) or "." in name or not name:
        raise CompositionError(f"the composition's name {name!r} is empty, has a dot, or is taken on this model")
    with bring_parts(model, wanted, parts, seed=seed, trainable=trainable, registry=registry) as taken:
        made: dict[str, Adaptation] = {}
        with ExitStack() as undo:
            undo.callback(_detach_all, made)
            flat = _flat(wanted, taken, made, trainable)
            composition = Composition(model, flat, {**taken.found, **made}, name=name, seed=seed, trainable=trainable)
            undo.pop_all()
    put_away([part for label, part in taken.found.items() if label not in composition.parts], keep=False)
    return composition


def _detach_all(made: Mapping[str, Adaptation]) -> None:
    for adaptation in reversed(list(made.values())):
        adaptation.detach()


def _flat(expression: str | Operator, taken: Taken, made: dict[str, Adaptation], trainable: bool) -> str | Operator:
    """The expression with weight operators computed: each is now a part."""
    if isinstance(expression, str):
        return expression
    terms = []
    for term in expression.terms:
        if not isinstance(term.of, WEIGHT):
            terms.append(term.model_copy(update={"of": _flat(term.of, taken, made, trainable)}))
            continue
        label = term.label or unused_name(taken.model, str(term.of.op))  # type: ignore[attr-defined]
        if label in names_of(expression):
            raise CompositionError(f"{label!r} names both a part and what {term.of} gives", "choose another label")
        made[label] = evaluate(term.of, taken, label, None, trainable)
        terms.append(Term(of=label, weight=term.weight))
    return type(expression).model_validate({**dict(expression), "terms": terms})
