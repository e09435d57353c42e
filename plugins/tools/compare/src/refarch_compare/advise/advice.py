"""Advice: what keeps the limits, how it ranks as far as the evidence goes, why, and what to measure next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from refarch import Registry
from refarch.errors import UsageError
from refarch_compare.advise.candidates import Backbone, Candidate, Limits, candidates
from refarch_compare.advise.gaps import Gap, gaps
from refarch_compare.advise.standing import SCOPES, Ranking, Standing, rank, scopes
from refarch_compare.evidence.row import Row


@dataclass(frozen=True)
class Item:
    """One candidate with its reasons."""

    candidate: Candidate
    tier: int | None
    """Its place; those of one place are not told apart. None where the evidence does not rank it."""
    standing: Standing | None
    reasons: tuple[str, ...]

    def data(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.candidate.name,
            "options": self.candidate.options or dict(self.candidate.spec.options),
            "tier": self.tier,
            "trainable_parameters": self.candidate.trainable,
            "merges": not self.candidate.stays,
            "least_memory_bytes": self.candidate.least_memory,
            "reasons": list(self.reasons),
            "records": list(self.standing.records) if self.standing else [],
            "imported_records": self.standing.imported if self.standing else 0,
        }


@dataclass(frozen=True)
class Advice:
    """The answer."""

    task: str
    backbone: str
    limits: Limits
    items: tuple[Item, ...]
    ranked: bool
    verdict: str
    """What the evidence allows to say, in words."""
    left_out: dict[str, str]
    """Techniques that break a limit or cannot work here, and why."""
    next: tuple[Gap, ...]

    def data(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "task": self.task,
            "backbone": self.backbone,
            "limits": vars(self.limits),
            "ranked": self.ranked,
            "verdict": self.verdict,
            "techniques": [item.data() for item in self.items],
            "left_out": self.left_out,
            "measure_next": [vars(gap) for gap in self.next],
        }


def advise(
    task: str,
    backbone: str,
    rows: Sequence[Row],
    limits: Limits,
    registry: Registry,
    *,
    recorded_as: str | None = None,
    alpha: float = 0.05,
) -> Advice:
    """Choose among the installed techniques.

    Args:
        task: its name, as records have it.
        backbone: an installed model, a folder or a hub id; its shape must be at hand.
        rows: the evidence; none is allowed, and then nothing is ranked.
        limits: what must be kept.
        registry: the installed plugins.
        recorded_as: the backbone's name in records, where that is another.
        alpha: the rate of false differences.

    Raises:
        UsageError: no technique keeps the limits; says which come nearest.
    """
    built = Backbone(backbone, task, registry)
    every, impossible = candidates(built, limits)
    kept = [candidate for candidate in every if not candidate.problems]
    if not kept:
        raise _nobody(every, limits, backbone)
    names = [candidate.name for candidate in kept]
    rankings = {
        scope: rank(found, names, limits.trainable, scope, alpha)
        for scope, found in scopes(rows, task, recorded_as or backbone).items()
    }
    here = rankings[SCOPES[0]]
    standings = {standing.name: standing for standing in here.standings}
    order = {standing.name: position for position, standing in enumerate(here.standings)}
    kept.sort(key=lambda candidate: (order.get(candidate.name, len(order)), candidate.trainable, candidate.name))
    items = [_item(candidate, standings.get(candidate.name), rankings, limits) for candidate in kept]
    left_out = {candidate.name: "; ".join(candidate.problems) for candidate in every if candidate.problems}
    return Advice(
        task=task,
        backbone=backbone,
        limits=limits,
        items=tuple(items),
        ranked=here.ranked,
        verdict=_verdict(here, len(kept)),
        left_out={**left_out, **impossible},
        next=tuple(gaps(kept, rankings, task, backbone)),
    )


def _item(candidate: Candidate, standing: Standing | None, rankings: dict[str, Ranking], limits: Limits) -> Item:
    reasons = candidate.reasons()
    for scope, ranking in rankings.items():
        reasons += [f"{scope}: {s.words()}" for s in ranking.standings if s.name == candidate.name]
    if standing is not None:
        reasons.append("best here with " + _configuration(standing.best))
        peak = standing.best.peak_memory_bytes
        if peak is not None:
            over = limits.memory_bytes is not None and peak > limits.memory_bytes
            reasons.append(f"measured peak memory {peak / 1e9:.3g} GB" + (", above the limit" if over else ""))
    elif len(reasons) == 3:
        reasons.append("no record of it for this task or backbone")
    return Item(candidate, standing.tier if standing else None, standing, tuple(reasons))


def _configuration(row: Row) -> str:
    options = ", ".join(f"{name} {value}" for name, value in row.options.items())
    rate = f"learning rate {row.learning_rate:g}" if row.learning_rate else ""
    return ", ".join(part for part in (options, rate) if part) or "its defaults"


def _verdict(here: Ranking, count: int) -> str:
    known = len(here.standings)
    if not known:
        return f"no ranking: none of the {count} techniques that keep the limits has a record for {here.scope}"
    missing = f"; {count - known} of {count} techniques have no record here" if count > known else ""
    if here.ranked:
        return f"ranked by {here.scope}: {here.why}; techniques of one place are not told apart{missing}"
    return f"no ranking: {here.why}, for {here.scope}{missing}"


def _nobody(every: Sequence[Candidate], limits: Limits, backbone: str) -> UsageError:
    if not every:
        return UsageError(
            f"no installed technique works on {backbone!r}", "refarch list-plugins shows what is installed"
        )
    nearest = sorted(every, key=lambda c: (len(c.problems), c.trainable))[:3]
    words = "; ".join(f"{candidate.name} {' and '.join(candidate.problems)}" for candidate in nearest)
    return UsageError(
        f"no installed technique keeps the limits ({limits.words()}) on {backbone!r}; nearest: {words}",
        "loosen a limit, or choose a smaller backbone",
    )
