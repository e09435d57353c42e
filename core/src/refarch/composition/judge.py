"""Say beforehand what an expression gives: exact, approximate with its measured error, or impossible and why."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from refarch.architecture import ConfiguredTechnique, TechniqueSpec
from refarch.architecture.expression import (
    WEIGHT,
    Concat,
    Operator,
    Sum,
    Term,
    operators,
    parts,
    read_expression,
    to_text,
)
from refarch.architecture.spec import Spec
from refarch.composition.composition import Composition
from refarch.composition.parts import PartLike, bring_parts
from refarch.composition.rules import obstacles
from refarch.composition.weights.arithmetic import weights_of
from refarch.composition.weights.operators import make
from refarch.composition.weights.result import WeightResult, attach_result
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.host.container import compositions_with, only_active, unused_name
from refarch.errors import CompositionError
from refarch.plugins.registry import Registry, default_registry

Verdict = Literal["exact", "approximate", "impossible"]
_ORDER: tuple[Verdict, ...] = ("exact", "approximate", "impossible")


class Finding(Spec):
    """What is to be said of one operator."""

    operator: str
    """As text."""
    verdict: Verdict
    reason: str
    hint: str = ""
    part: str = ""
    slot: str = ""
    property: str = ""
    """Of an impossible one: the part, the slot and the property in conflict."""
    error: float | None = None
    """Of the weights: relative to the weighted sum of what the parts add (Frobenius norm); None where that is not
    defined, or not measured."""
    output_error: float | None = None
    """Of the model's output on the given batch: relative to what the same weighted sum, computed in the forward pass,
    changes there."""


class Judgement(Spec):
    """What an expression gives."""

    expression: str
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of all operators'."""
        return max((finding.verdict for finding in self.findings), key=_ORDER.index, default="exact")

    def __str__(self) -> str:
        lines = [f"{self.expression}: {self.verdict}"]
        for item in self.findings:
            error = "" if item.error is None else f" (error {item.error:.2g})"
            where = f" part {item.part!r} at slot {item.slot!r} ({item.property}):" if item.part else ""
            lines.append(f"  {item.verdict}: {item.operator}:{where} {item.reason}{error}")
        return "\n".join(lines)


def judge(
    expression: Any,
    parts: Mapping[str, PartLike] | None = None,
    *,
    model: PreTrainedModel | None = None,
    batch: Mapping[str, Tensor] | None = None,
    registry: Registry | None = None,
) -> Judgement:
    """Say what an expression would give, without changing the model.

    Args:
        expression: as of :func:`refarch.compose`.
        parts: as there. Without a model: techniques, by name or spec, of which properties alone are judged.
        model: to judge, and measure, adaptations on it.
        batch: to measure the error of the model's output, too.
        registry: where techniques are looked up.

    Raises:
        SpecError: the expression cannot be read.
        CompositionError: it names parts that are not there.
    """
    wanted = read_expression(expression)
    if model is None:
        return Judgement(expression=to_text(wanted), findings=tuple(_by_specs(wanted, parts or {}, registry)))
    with bring_parts(model, wanted, parts, registry=registry) as taken:
        try:
            found = tuple(_by_parts(wanted, taken.found, batch))
        finally:
            taken.put_back()
    return Judgement(expression=to_text(wanted), findings=found)


def _by_specs(expression: str | Operator, given: Mapping[str, Any], registry: Registry | None) -> Iterator[Finding]:
    specs = {}
    for name in parts(expression):
        technique = given.get(name, name)
        if isinstance(technique, str):
            technique = (registry or default_registry()).technique(technique)
        if isinstance(technique, TechniqueSpec):
            technique = technique.configure({})
        assert isinstance(technique, ConfiguredTechnique)
        specs[name] = tuple(map(technique.decided, technique.technique.modules))
    yield from _running(expression, specs)
    for operator in operators(expression):
        if isinstance(operator, WEIGHT):
            yield Finding(
                operator=to_text(operator), verdict="approximate", reason="measured once parts are on a model"
            )


def _by_parts(
    expression: str | Operator, found: Mapping[str, Adaptation], batch: Mapping[str, Tensor] | None
) -> Iterator[Finding]:
    yield from _running(expression, {name: part.modules() for name, part in found.items()})
    for operator in operators(expression):
        if isinstance(operator, WEIGHT):
            yield _weights(operator, found, batch)


def _running(expression: str | Operator, specs: Mapping[str, Any]) -> Iterator[Finding]:
    """Running operators compute their definition; some have none for some parts."""
    problems = list(dict.fromkeys(obstacles(expression, specs)))
    for each in problems:
        yield Finding(
            operator=each.operator,
            verdict="impossible",
            reason=each.reason,
            hint=each.hint,
            part=each.part,
            slot=each.slot,
            property=each.property,
        )
    wrong = {each.operator for each in problems}
    for operator in operators(expression):
        if not isinstance(operator, WEIGHT) and str(operator.op) not in wrong:  # type: ignore[attr-defined]
            yield Finding(
                operator=to_text(operator), verdict="exact", reason="computed in each forward pass, as defined"
            )


def _weights(operator: Operator, found: Mapping[str, Adaptation], batch: Mapping[str, Tensor] | None) -> Finding:
    text = to_text(operator)
    if any(isinstance(term.of, Operator) for term in operator.terms):
        return Finding(operator=text, verdict="approximate", reason="measured where its inner operators are computed")
    try:
        made = make(operator, found)
    except CompositionError as error:
        return Finding(operator=text, verdict="impossible", reason=error.message, hint=error.hint or "")
    off = None if batch is None else _output_error(operator, made, found, batch)
    if made.error is None:
        exact = isinstance(operator, Concat)
        reason = "side by side they are a stack" if exact else "parameters combined: no sum of what they do"
        return Finding(operator=text, verdict="exact" if exact else "approximate", reason=reason, output_error=off)
    verdict: Verdict = "exact" if made.error < 1e-6 else "approximate"
    what = "the weighted sum" if verdict == "exact" else "near the weighted sum"
    reason = f"{what} of what the parts add to the weights"
    return Finding(operator=text, verdict=verdict, reason=reason, error=made.error, output_error=off)


@torch.no_grad()
def _output_error(
    operator: Operator, made: WeightResult, found: Mapping[str, Adaptation], batch: Mapping[str, Tensor]
) -> float | None:
    own = [found[str(term.of)] for term in operator.terms]
    model = own[0].model
    if any(compositions_with(part) for part in own):
        return None
    terms = [Term(of=t.of, weight=w) for t, w in zip(operator.terms, weights_of(operator), strict=True)]
    with _only(model, []):
        base = _output(model, batch)
    try:
        reference = Composition(
            model, Sum(terms=tuple(terms)), found, name=unused_name(model, "judged"), trainable=False
        )
    except CompositionError:
        return None
    with _only(model, own):
        want = _output(model, batch)
    reference.detach(parts=False)
    result = attach_result(made, own, unused_name(model, "judged"), False)
    with _only(model, [result]):
        got = _output(model, batch)
    result.detach()
    change = float((want - base).double().norm())
    return float((got - want).double().norm()) / change if change else math.nan


@contextlib.contextmanager
def _only(model: PreTrainedModel, chosen: list[Adaptation]) -> Iterator[None]:
    """While inside, some adaptations alone bring_parts part, and nothing drops."""
    was = model.training
    model.eval()
    try:
        with only_active(model, chosen):
            yield
    finally:
        model.train(was)


def _output(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    out = model(**batch)
    found = next((out[key] for key in ("logits", "last_hidden_state") if out.get(key) is not None), None)
    return (out[0] if found is None else found).float()
