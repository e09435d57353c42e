"""What the evidence says of candidates: comparable rows, places that are told apart, and none where nothing is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from refarch_compare.evidence.row import Row
from refarch_compare.stats.blocks import by_block
from refarch_compare.stats.intervals import Interval, mean_interval
from refarch_compare.stats.paired import Pair, compare

HERE, OTHER_BACKBONES, OTHER_TASKS = (
    "this task on this backbone",
    "this task on other backbones",
    "other tasks on this backbone",
)
"""Where evidence is from, the most telling first."""


@dataclass(frozen=True)
class Scope:
    """Rows that are compared with each other: never runs with figures that others measured."""

    where: str
    origin: str
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """In words, marked where it is imported."""
        return f"{self.where} ({self.origin})" if self.rows[0].imported else self.where


@dataclass(frozen=True)
class Standing:
    """How one candidate did in a scope."""

    name: str
    mean: Interval
    metric: str
    rows: tuple[Row, ...]
    """Of the configuration that did best."""
    tried: int
    """How many configurations of it there are."""
    tier: int | None
    """1 for those that nothing was better than; None where the evidence does not place it."""
    better: tuple[str, ...]
    """What it was better than."""
    alike: tuple[str, ...]
    """What its difference from was within noise."""

    @property
    def seeds(self) -> int:
        """How many different seeds."""
        return len({row.seed for row in self.rows})

    @property
    def imported(self) -> int:
        """How many rows others measured."""
        return sum(row.imported for row in self.rows)

    def words(self) -> str:
        """The evidence in words."""
        spread = ""
        if self.mean.low is not None and self.mean.high is not None:
            spread = f" ({self.mean.level:.0%} interval {self.mean.low:.3f} to {self.mean.high:.3f})"
        imported = "imported " if self.imported else ""
        found = f"{self.metric} {self.mean.mean:.3f}{spread} in {_count(len(self.rows), f'{imported}record')}"
        found += f", {_count(self.seeds, 'seed')}"
        if self.tried > 1:  # chosen by the score that is shown: that flatters it
            found += f"; the best of {self.tried} configurations, so a little flattered"
        return found


@dataclass(frozen=True)
class Ranking:
    """The standings in one scope."""

    scope: str
    standings: tuple[Standing, ...]
    """By place; within a place, and without places, those that train least first: no order is claimed."""
    pairs: tuple[Pair, ...]
    ranked: bool
    """Whether anything is told apart."""
    why: str
    """Why, in words."""
    notes: tuple[str, ...] = ()
    """What was left out."""


def key(row: Row) -> str:
    """The candidate that a row is of: ``technique`` or ``technique:preset``."""
    preset = row.options.get("preset")
    return f"{row.technique}:{preset}" if preset else row.technique


def scopes(rows: Iterable[Row], task: str, backbone: str) -> list[Scope]:
    """The rows of each scope that has any, the most telling first, runs before imported rows.

    Args:
        rows: the evidence; compositions say nothing of one technique and are left out.
        task: a task, or a task with its options as evidence shows it.
        backbone: as records name it.
    """
    found: dict[tuple[int, bool, str], list[Row]] = {}
    names = (HERE, OTHER_BACKBONES, OTHER_TASKS)
    for row in rows:
        same_task, same_backbone = task in (row.task, row.problem), row.backbone == backbone
        if "+" in row.technique or not (same_task or same_backbone):
            continue
        where = 2 if not same_task else 0 if same_backbone else 1
        found.setdefault((where, row.imported, row.origin), []).append(row)
    return [
        Scope(names[where], origin, tuple(found[where, imported, origin])) for where, imported, origin in sorted(found)
    ]


def rank(scope: Scope, fits: Callable[[Row], bool], alpha: float = 0.05) -> Ranking:
    """Rank candidates by the rows of one scope.

    Args:
        scope: the rows.
        fits: whether a row is of a candidate, in a configuration that keeps the limits.
        alpha: the rate of any false difference among all the comparisons.
    """
    rows, notes = _of_one_metric(scope.rows)
    tried: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        tried.setdefault(key(row), {}).setdefault(row.configuration, []).append(row)
    fitting = {
        name: kept
        for name, configurations in tried.items()
        if (kept := [found for found in configurations.values() if fits(found[0])])
    }
    if not fitting:
        return Ranking(scope.name, (), (), False, "no record is of a candidate within the limits", notes)
    sign = 1 if rows[0].greater_is_better else -1
    best = {name: max(found, key=lambda rows: sign * _mean(rows)) for name, found in fitting.items()}
    blocks = by_block([row for found in best.values() for row in found], key)
    scores: dict[str, dict[Hashable, float]] = blocks.scores
    pairs = compare(scores, greater_is_better=blocks.greater_is_better, alpha=alpha) if len(scores) > 1 else []
    ranked = any(pair.verdict in ("better", "worse") for pair in pairs)
    standings = [_standing(name, found, len(fitting[name]), pairs, ranked) for name, found in best.items()]
    standings.sort(key=lambda s: (s.tier is None, s.tier or 0, s.rows[0].trainable_parameters or 0, s.name))
    return Ranking(scope.name, tuple(standings), tuple(pairs), ranked, _why(pairs), notes)


def _of_one_metric(rows: Sequence[Row]) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of the metric that most rows have, and how many others there are."""
    by_metric: dict[tuple[str, bool], list[Row]] = {}
    for row in rows:
        by_metric.setdefault((row.metric, row.greater_is_better), []).append(row)
    most = max(by_metric, key=lambda metric: len(by_metric[metric]))
    others = len(rows) - len(by_metric[most])
    notes = (f"{_count(others, 'record')} of other metrics than {most[0]} left out",) if others else ()
    return by_metric[most], notes


def _mean(rows: Sequence[Row]) -> float:
    return sum(row.score for row in rows) / len(rows)


def _standing(name: str, rows: Sequence[Row], tried: int, pairs: Sequence[Pair], ranked: bool) -> Standing:
    beaten: list[str] = []
    better: list[str] = []
    alike: list[str] = []
    for pair in pairs:
        if name not in (pair.first, pair.second) or pair.verdict == "too few blocks":
            continue
        other = pair.second if pair.first == name else pair.first
        won = pair.verdict == ("better" if pair.first == name else "worse")
        (alike if pair.verdict == "within noise" else better if won else beaten).append(other)
    tested = bool(beaten or better or alike)
    return Standing(
        name=name,
        mean=mean_interval([row.score for row in rows]),
        metric=rows[0].metric,
        rows=tuple(rows),
        tried=tried,
        tier=1 + len(beaten) if ranked and tested else None,
        better=tuple(better),
        alike=tuple(alike),
    )


def _why(pairs: Sequence[Pair]) -> str:
    if not pairs:
        return "only one candidate has records, so there is nothing to compare it with"
    few = sum(pair.verdict == "too few blocks" for pair in pairs)
    told = sum(pair.verdict in ("better", "worse") for pair in pairs)
    if told:
        return f"{told} of {len(pairs)} pairs are told apart"
    if few == len(pairs):
        return "no two candidates share the three blocks (task, backbone, seed) that a comparison needs"
    return f"all differences are within noise ({len(pairs) - few} pairs compared, {few} with too few blocks)"


def _count(number: int, what: str) -> str:
    return f"{number} {what if number == 1 else what + 's'}"
