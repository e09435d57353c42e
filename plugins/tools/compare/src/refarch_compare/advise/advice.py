"""Advice: what keeps the limits, how it ranks as far as the evidence goes, why, and what to measure next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from refarch import Registry
from refarch.errors import UnknownNameError, UsageError, did_you_mean
from refarch_compare.advise.candidates import Candidate, Limits, candidates, measured
from refarch_compare.advise.costing import Backbone
from refarch_compare.advise.gaps import Gap, Place, gaps
from refarch_compare.advise.standing import HERE, Ranking, Scope, Standing, key, rank, scopes
from refarch_compare.evidence.row import Row


@dataclass(frozen=True)
class Item:
    """One candidate with its reasons."""

    candidate: Candidate
    tier: int | None
    """Its place; those of one place are not told apart. None where the evidence does not rank it."""
    standing: Standing | None
    """How it did here."""
    reasons: tuple[str, ...]

    def data(self) -> dict[str, Any]:
        """Plain data."""
        cost, rows = self.candidate.cost, self.standing.rows if self.standing else ()
        return {
            "name": self.candidate.name,
            "technique": self.candidate.spec.name,
            "options": self.candidate.options,
            "tier": self.tier,
            "trainable_parameters": cost.trainable,
            "merges": not cost.stays,
            "least_memory_bytes": cost.least_memory,
            "score": self.standing.mean._asdict() if self.standing else None,
            "metric": self.standing.metric if self.standing else None,
            "records": [row.path for row in rows],
            "imported_records": sum(row.imported for row in rows),
            "reasons": list(self.reasons),
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
    notes: tuple[str, ...]
    """What a reader has to know of the evidence."""
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
            "notes": list(self.notes),
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
        task: its name, or the task with its options as evidence shows it.
        backbone: an installed model, a folder or a hub id; its configuration must be at hand.
        rows: the evidence; none is allowed, and then nothing is ranked.
        limits: what must be kept.
        registry: the installed plugins.
        recorded_as: the backbone's name in records, where that is another.
        alpha: the rate of false differences.

    Raises:
        UnknownNameError: neither the plugins nor the evidence know the task.
        UsageError: no technique keeps the limits; says which come nearest.
    """
    _check_task(task, rows, registry)
    built = Backbone(backbone, task.partition(" ")[0], registry)
    every, impossible = candidates(built, limits)
    judge = Judge(built, limits, every)
    there = scopes(rows, task, recorded_as or backbone)
    rankings = [(scope, rank(scope, judge.fits if scope.where == HERE else judge.known, alpha)) for scope in there]
    here = next((ranking for scope, ranking in rankings if scope.where == HERE and ranking.standings), None)
    here = here or Ranking(HERE, (), (), False, "there is no record")
    kept = judge.kept(here)
    if not kept:
        raise _nobody(every, limits, backbone)
    elsewhere = [ranking for _, ranking in rankings if ranking is not here]
    order = {standing.name: position for position, standing in enumerate(here.standings)}
    kept.sort(key=lambda c: (order.get(c.name, len(order)), c.cost.trainable, c.name))
    left_out = {c.name: "; ".join(c.problems) for c in every if c.name not in {k.name for k in kept}}
    place = Place(task, backbone, runs=task in registry.names("task"))
    return Advice(
        task=task,
        backbone=backbone,
        limits=limits,
        items=tuple(_item(candidate, here, elsewhere) for candidate in kept),
        ranked=here.ranked,
        verdict=_verdict(here, len(kept)),
        notes=(*_notes(rows, there, here, recorded_as or backbone), *place.notes()),
        left_out={**left_out, **impossible},
        next=tuple(gaps(kept, here, elsewhere, place)),
    )


class Judge:
    """Which rows are of configurations that keep the limits; each configuration is attached once.

    Args:
        backbone: what techniques are attached to.
        limits: what they must keep.
        every: the candidates by structure.
    """

    def __init__(self, backbone: Backbone, limits: Limits, every: Sequence[Candidate]) -> None:
        self.backbone, self.limits = backbone, limits
        self.every = {candidate.name: candidate for candidate in every}
        self._measured: dict[str, Candidate | None] = {}

    def known(self, row: Row) -> bool:
        """Whether a row is of a technique that keeps the limits, in whatever configuration."""
        candidate = self.every.get(key(row))
        return candidate is not None and not candidate.problems

    def fits(self, row: Row) -> bool:
        """Whether a row's own configuration keeps the limits, by its structure and by what its run measured."""
        limits = self.limits
        if key(row) not in self.every or row.spec is None:
            return False
        if limits.trainable is not None and not (row.trainable_parameters or math.inf) <= limits.trainable:
            return False
        if limits.memory_bytes is not None and (row.peak_memory_bytes or 0) > limits.memory_bytes:
            return False
        candidate = self.of(row)
        return candidate is not None and not candidate.problems

    def of(self, row: Row) -> Candidate | None:
        """The row's configuration as a candidate."""
        name = row.configuration
        if name not in self._measured:
            assert row.spec is not None
            self._measured[name] = measured(key(row), row.spec, self.backbone, self.limits)
        return self._measured[name]

    def kept(self, here: Ranking) -> list[Candidate]:
        """The candidates within the limits: as they were measured here, else as they are by default."""
        found = {name: candidate for name, candidate in self.every.items() if not candidate.problems}
        for standing in here.standings:
            candidate = self.of(standing.rows[0])
            assert candidate is not None
            found[standing.name] = candidate
        return list(found.values())


def _item(candidate: Candidate, here: Ranking, elsewhere: Sequence[Ranking]) -> Item:
    reasons = candidate.reasons()
    standing = next((s for s in here.standings if s.name == candidate.name), None)
    if standing is not None:
        reasons.append(f"{here.scope}: {standing.words()}")
        if standing.better:
            reasons.append(f"better than {', '.join(standing.better)}")
        if standing.alike:
            reasons.append(f"within noise of {', '.join(standing.alike)}")
        reasons.append("measured with " + _settings(candidate, standing.rows))
    others = [
        f"{ranking.scope}: {s.words()}" for ranking in elsewhere for s in ranking.standings if s.name == candidate.name
    ]
    if standing is None:
        reasons.append("no record of it here" + ("" if others else ", and none for this task or backbone elsewhere"))
    return Item(candidate, standing.tier if standing else None, standing, (*reasons, *others))


def _settings(candidate: Candidate, rows: Sequence[Row]) -> str:
    """How a configuration was trained, and the memory that took."""
    row = rows[0]
    peaks = [r.peak_memory_bytes for r in rows if r.peak_memory_bytes is not None]
    parts = [candidate.settings or "its defaults"]
    parts += [f"learning rate {row.learning_rate:g}"] if row.learning_rate else []
    if row.steps and row.batch_size:
        parts.append(f"{row.steps:,} steps of {row.batch_size}")
    parts += [f"peak memory {max(peaks) / 1e9:.3g} GB ({row.device or 'unknown device'})"] if peaks else []
    return ", ".join(parts)


def _verdict(here: Ranking, count: int) -> str:
    known = len(here.standings)
    if not known:
        return f"no ranking: none of the {count} techniques within the limits has a record for {HERE}"
    missing = f"; {count - known} of {count} techniques within the limits have no record here" if count > known else ""
    if here.ranked:
        return f"ranked by {here.scope}: {here.why}; techniques of one place are not told apart{missing}"
    return f"no ranking: {here.why}, for {here.scope}{missing}"


def _notes(rows: Sequence[Row], there: Sequence[Scope], here: Ranking, backbone: str) -> tuple[str, ...]:
    notes = list(here.notes)
    problems = sorted({row.problem for scope in there if scope.where == HERE for row in scope.rows})
    if len(problems) > 1:
        notes.append(f"records here are of {len(problems)} problems: {', '.join(problems)}; --task takes one of these")
    composed = sum("+" in row.technique for row in rows)
    if composed:
        notes.append(f"{composed} of the records are of compositions, which say nothing of one technique alone")
    names = sorted({row.backbone for scope in there if scope.where != HERE for row in scope.rows} - {backbone})
    if not here.standings and names:
        shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
        notes.append(f"records of this task name its backbones {shown}; if one is this backbone, say --recorded-as")
    return tuple(notes)


def _check_task(task: str, rows: Sequence[Row], registry: Registry) -> None:
    known = {*registry.names("task"), *(name for row in rows for name in (row.task, row.problem))}
    if task not in known:
        raise UnknownNameError(
            f"neither the installed plugins nor the evidence know a task {task!r}", did_you_mean(task, known)
        )


def _nobody(every: Sequence[Candidate], limits: Limits, backbone: str) -> UsageError:
    if not every:
        return UsageError(
            f"no installed technique works on {backbone!r}", "refarch list-plugins shows what is installed"
        )
    nearest = sorted(every, key=lambda c: (len(c.problems), c.cost.trainable))[:3]
    words = "; ".join(f"{candidate.name} {' and '.join(candidate.problems)}" for candidate in nearest)
    return UsageError(
        f"no installed technique keeps the limits ({limits.words()}) on {backbone!r}; nearest: {words}",
        "loosen a limit, or choose a smaller backbone",
    )
