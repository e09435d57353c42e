"""What the evidence says of candidates: comparable rows, tiers that are told apart, and none where nothing is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from refarch_compare.evidence.row import Row
from refarch_compare.stats.blocks import by_block
from refarch_compare.stats.intervals import Interval, mean_interval
from refarch_compare.stats.paired import Pair, compare

SCOPES = ("this task on this backbone", "this task on other backbones", "other tasks on this backbone")
"""From the most to the least telling."""


@dataclass(frozen=True)
class Standing:
    """How a candidate did, among the others on the same blocks."""

    name: str
    mean: Interval
    """Of its scores; of one metric only where ``metric`` says so."""
    metric: str
    records: tuple[str, ...]
    imported: int
    seeds: int
    tier: int | None
    """1 for those that nothing was better than; None where the evidence does not rank it."""
    best: Row
    """The row whose configuration did best."""

    def words(self) -> str:
        """The evidence in words, marked where it is imported."""
        spread = ""
        if self.mean.low is not None and self.mean.high is not None:
            spread = f" ({self.mean.level:.0%} interval {self.mean.low:.3f} to {self.mean.high:.3f})"
        count = f"{len(self.records)} {'record' if len(self.records) == 1 else 'records'}"
        seeds = f"{self.seeds} {'seed' if self.seeds == 1 else 'seeds'}"
        marked = f", {self.imported} of them imported ({self.best.origin})" if self.imported else ""
        return f"{self.metric} {self.mean.mean:.3f}{spread} in {count}, {seeds}{marked}"


@dataclass(frozen=True)
class Ranking:
    """The standings in one scope."""

    scope: str
    standings: tuple[Standing, ...]
    """Best mean first."""
    pairs: tuple[Pair, ...]
    ranked: bool
    """Whether anything is told apart."""
    why: str
    """Why, in words."""


def key(row: Row) -> str:
    """The candidate that a row is of: ``technique`` or ``technique:preset``."""
    preset = row.options.get("preset")
    return f"{row.technique}:{preset}" if preset else row.technique


def scopes(rows: Sequence[Row], task: str, backbone: str) -> dict[str, list[Row]]:
    """The rows of each scope."""
    return {
        SCOPES[0]: [row for row in rows if row.task == task and row.backbone == backbone],
        SCOPES[1]: [row for row in rows if row.task == task and row.backbone != backbone],
        SCOPES[2]: [row for row in rows if row.task != task and row.backbone == backbone],
    }


def rank(rows: Sequence[Row], names: Sequence[str], trainable: int | None, scope: str, alpha: float = 0.05) -> Ranking:
    """Rank candidates by rows of one scope.

    Args:
        rows: of the scope.
        names: the candidates.
        trainable: the budget; rows that trained more say nothing about what is asked.
        scope: what the rows have in common.
        alpha: of the comparisons.
    """
    chosen = [
        row for row in rows if key(row) in names and (trainable is None or (row.trainable_parameters or 0) <= trainable)
    ]
    metrics = sorted({(row.metric, row.greater_is_better) for row in chosen})
    if len(metrics) > 1:  # the figures of several metrics are compared block by block, in the one of most rows
        most = max(metrics, key=lambda metric: sum((row.metric, row.greater_is_better) == metric for row in chosen))
        chosen = [row for row in chosen if (row.metric, row.greater_is_better) == most]
    by_name: dict[str, list[Row]] = {}
    for row in chosen:
        by_name.setdefault(key(row), []).append(row)
    if not by_name:
        return Ranking(scope, (), (), False, "there are no records of the candidates")
    blocks = by_block(chosen, key)
    kept = {name: _best_configuration(found) for name, found in by_name.items()}
    scores: dict[str, dict[Hashable, float]] = by_block([row for found in kept.values() for row in found], key).scores
    pairs = compare(scores, greater_is_better=blocks.greater_is_better, alpha=alpha) if len(scores) > 1 else []
    told = [pair for pair in pairs if pair.verdict in ("better", "worse")]
    ranked = bool(told)
    standings = [_standing(name, found, pairs, ranked) for name, found in kept.items()]
    turned = -1 if blocks.greater_is_better else 1
    standings.sort(key=lambda s: (s.tier is None, s.tier or 0, turned * s.mean.mean))
    return Ranking(scope, tuple(standings), tuple(pairs), ranked, _why(pairs, told))


def _best_configuration(rows: Sequence[Row]) -> list[Row]:
    """The rows of the configuration with the best mean score."""
    by_configuration: dict[str, list[Row]] = {}
    for row in rows:
        by_configuration.setdefault(f"{sorted(row.options.items())!r} {row.learning_rate}", []).append(row)
    sign = 1 if rows[0].greater_is_better else -1
    return max(by_configuration.values(), key=lambda found: sign * sum(row.score for row in found) / len(found))


def _standing(name: str, rows: Sequence[Row], pairs: Sequence[Pair], ranked: bool) -> Standing:
    beaten = sum(
        (pair.first == name and pair.verdict == "worse") or (pair.second == name and pair.verdict == "better")
        for pair in pairs
    )
    tested = any(name in (pair.first, pair.second) and pair.verdict != "too few blocks" for pair in pairs)
    sign = 1 if rows[0].greater_is_better else -1
    return Standing(
        name=name,
        mean=mean_interval([row.score for row in rows]),
        metric=rows[0].metric,
        records=tuple(row.path for row in rows),
        imported=sum(row.imported for row in rows),
        seeds=len({row.seed for row in rows}),
        tier=1 + beaten if ranked and tested else None,
        best=max(rows, key=lambda row: sign * row.score),
    )


def _why(pairs: Sequence[Pair], told: Sequence[Pair]) -> str:
    if not pairs:
        return "only one candidate has records, so there is nothing to compare it with"
    few = sum(pair.verdict == "too few blocks" for pair in pairs)
    if told:
        return f"{len(told)} of {len(pairs)} pairs are told apart"
    if few == len(pairs):
        return "no two candidates share the three blocks (task, backbone, seed) that a comparison needs"
    return f"all differences are within noise ({len(pairs) - few} pairs compared, {few} with too few blocks)"
