"""Structure related to results: what goes with what, how surely, and what cannot be said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from refarch_compare.evidence.row import Row
from refarch_compare.relate.confound import Confound, separate
from refarch_compare.relate.design import Design, design
from refarch_compare.relate.fit import Estimate, fit
from refarch_compare.relate.importance import Importance, importance
from refarch_compare.stats.paired import holm

Verdict = Literal["goes with more", "goes with less", "within noise", "cannot be separated"]


class Effect(NamedTuple):
    """What goes with a property's value rather than the reference, or with a decade more of a covariate."""

    of: str
    """The property or the covariate."""
    value: str
    reference: str
    effect: float
    """In the response's unit; a factor where it is related as a ratio."""
    low: float
    high: float
    p: float
    corrected_p: float
    """After Holm over all effects."""
    configurations: int
    """How many configured techniques have the value."""
    verdict: Verdict
    inseparable: tuple[str, ...]
    """What it cannot be told from."""

    @property
    def name(self) -> str:
        """The property and its value."""
        return f"{self.of} = {self.value}" if self.value else f"{self.of}, ten times"


class Relation(NamedTuple):
    """Everything that the evidence says about one response."""

    response: str
    unit: str
    rows: int
    imported: int
    configurations: int
    techniques: int
    left_out: int
    model: str
    effects: tuple[Effect, ...]
    confounds: tuple[Confound, ...]
    constant: tuple[tuple[str, str], ...]
    importance: Importance | None
    ratio: bool
    level: float

    def data(self) -> dict[str, Any]:
        """Plain data."""
        plain = self._asdict()
        plain["effects"] = [effect._asdict() for effect in self.effects]
        plain["confounds"] = [confound._asdict() for confound in self.confounds]
        plain["importance"] = self.importance._asdict() if self.importance else None
        return plain


def relate(
    rows: Sequence[Row],
    response: str = "score",
    only: Sequence[str] = (),
    *,
    alpha: float = 0.05,
    seed: int = 0,
    check: bool = True,
) -> Relation:
    """Relate structural properties to a figure.

    Args:
        rows: evidence.
        response: the score, a cost or a measure.
        only: properties; all that vary when left out.
        alpha: the rate of any false effect among all; the intervals have level 1 - alpha.
        seed: of the check's forest.
        check: whether to check by permutation importance.

    Raises:
        UsageError: too little evidence, or an unknown name.
    """
    told = design(rows, response, only)
    separated = separate(told)
    fitted = fit(told, separated.columns, 1 - alpha)
    corrected = holm([estimate.p for estimate in fitted.estimates])
    blocking: dict[str, list[str]] = {}
    for confound in separated.confounds:
        if confound.kind in ("the same rows", "a combination", "one technique"):
            for name in confound.columns:
                blocking.setdefault(name, []).extend(other for other in confound.columns if other != name)
    effects = [
        _effect(told, estimate, p, alpha, tuple(dict.fromkeys(blocking.get(estimate.column.name, ()))))
        for estimate, p in zip(fitted.estimates, corrected, strict=True)
    ]
    return Relation(
        response=response,
        unit=told.unit,
        rows=len(told.rows),
        imported=sum(row.imported for row in told.rows),
        configurations=len(set(told.configurations)),
        techniques=len({row.technique for row in told.rows}),
        left_out=told.left_out,
        model=fitted.model,
        effects=tuple(sorted(effects, key=lambda effect: effect.p)),
        confounds=separated.confounds,
        constant=told.constant,
        importance=importance(told, seed) if check else None,
        ratio=told.logarithmic,
        level=1 - alpha,
    )


def _effect(told: Design, estimate: Estimate, p: float, alpha: float, inseparable: tuple[str, ...]) -> Effect:
    column = estimate.column
    having = {
        name for name, there in zip(told.configurations, column.numbers, strict=True) if there or not column.value
    }
    verdict: Verdict = "within noise"
    if p <= alpha:
        verdict = "goes with more" if estimate.effect > 0 else "goes with less"
        if inseparable:
            verdict = "cannot be separated"
    effect, low, high = (
        10.0**number if told.logarithmic else number for number in (estimate.effect, estimate.low, estimate.high)
    )
    return Effect(
        of=column.of,
        value=column.value,
        reference=column.reference,
        effect=effect,
        low=low,
        high=high,
        p=estimate.p,
        corrected_p=p,
        configurations=len(having),
        verdict=verdict,
        inseparable=inseparable,
    )
