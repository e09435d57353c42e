"""What may be said of the differences between results: pairs within a setting, ranks over all settings."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from refarch.errors import UsageError
from refarch_compare.report.results import Result, Results, Setting
from refarch_compare.stats.paired import FEWEST, Pair, compare
from refarch_compare.stats.pscp import COSTS, pscp
from refarch_compare.stats.ranks import Ranking, rank

GIGABYTE = 1e9
TERA = "extra_teraoperations"


class Comparison(NamedTuple):
    """The results of one setting, compared."""

    setting: Setting
    results: tuple[Result, ...]
    """Best mean first."""
    pairs: tuple[Pair, ...]
    verdict: str
    """In a sentence."""
    pscp: dict[str, float]
    """By result; of those that have what it needs."""
    pscp_note: str

    @property
    def told(self) -> list[Pair]:
        """The pairs that are told apart."""
        return [pair for pair in self.pairs if pair.verdict in ("better", "worse")]


class Ranks(NamedTuple):
    """Mean ranks over the settings of one origin, or why there are none."""

    origin: str
    ranking: Ranking | None
    why: str


def comparisons(results: Results, alpha: float) -> list[Comparison]:
    """Each setting's results compared in pairs over the seeds that they share."""
    return [_comparison(setting, inside, alpha) for setting, inside in results.by_setting().items()]


def _comparison(setting: Setting, results: Sequence[Result], alpha: float) -> Comparison:
    scores = {result.name: _scores(result) for result in results}
    pairs = compare(scores, greater_is_better=setting.greater_is_better, alpha=alpha) if len(scores) > 1 else []
    penalised, note = _pscp(setting, results)
    return Comparison(setting, tuple(results), tuple(pairs), _verdict(results, pairs), penalised, note)


def _scores(result: Result) -> dict[Hashable, float]:
    by_seed: dict[Hashable, list[float]] = {}
    for row in result.rows:
        by_seed.setdefault(row.block, []).append(row.score)
    return {block: sum(found) / len(found) for block, found in by_seed.items()}


def _verdict(results: Sequence[Result], pairs: Sequence[Pair]) -> str:
    first = results[0]
    best = f"{first.name} has the best mean, {first.interval.mean:.4g}"
    if not pairs:
        return f"{best}; there is nothing to compare it with"
    told = [pair for pair in pairs if pair.verdict in ("better", "worse")]
    few = sum(pair.verdict == "too few blocks" for pair in pairs)
    if few == len(pairs):
        return f"{best}, but no two results share the {FEWEST} seeds that tell a difference from noise"
    against = [pair for pair in pairs if first.name in (pair.first, pair.second)]
    noise = [_other(pair, first.name) for pair in against if pair.verdict == "within noise"]
    beaten = [_other(pair, first.name) for pair in against if pair in told]
    unknown = [_other(pair, first.name) for pair in against if pair.verdict == "too few blocks"]
    parts = [f"told apart from {', '.join(beaten)}"] if beaten else []
    parts += [f"within noise of {', '.join(noise)}"] if noise else []
    parts += [f"too few shared seeds to tell it from {', '.join(unknown)}"] if unknown else []
    counted = f"{len(told)} of {len(pairs)} pairs are told apart" if told else "no pair is told apart"
    return f"{best}: {'; '.join(parts)}. In all, {counted}"


def _other(pair: Pair, name: str) -> str:
    return pair.second if pair.first == name else pair.first


def _pscp(setting: Setting, results: Sequence[Result]) -> tuple[dict[str, float], str]:
    """PSCP of the results that have its costs; without operations where nothing has counted them."""
    counted = [result for result in results if result.figures.get(TERA) is not None]
    weights = dict(COSTS) if counted else {name: cost for name, cost in COSTS.items() if name != TERA}
    note = "" if counted else "without operations, which these records do not have"
    found: dict[str, float] = {}
    for result in counted or results:
        memory, trained = result.figures.get("peak_memory_bytes"), result.figures.get("trainable_parameters")
        if not setting.greater_is_better or result.interval.mean < 0 or memory is None or trained is None:
            continue
        costs = {"trainable_parameters": trained, "peak_memory_gigabytes": memory / GIGABYTE}
        if counted:
            costs[TERA] = max(0.0, result.figures[TERA] or 0.0)
        found[result.id] = pscp(result.interval.mean, costs, weights)
    return found, note


def ranks(results: Results, alpha: float) -> list[Ranks]:
    """Mean ranks of names over all blocks that they share, for each origin by itself."""
    origins = dict.fromkeys(result.setting.origin for result in results.results)
    return [_ranks(origin, [r for r in results.results if r.setting.origin == origin], alpha) for origin in origins]


def _ranks(origin: str, results: Sequence[Result], alpha: float) -> Ranks:
    scores: dict[str, dict[Hashable, float]] = {}
    for result in results:
        turned = 1.0 if result.setting.greater_is_better else -1.0
        own = scores.setdefault(result.name, {})
        own.update({block: turned * score for block, score in _scores(result).items()})
    try:
        found = rank(scores, alpha=alpha)
    except UsageError as error:
        return Ranks(origin, None, error.message)
    if found.blocks < FEWEST:  # two seeds that agree say little of what a third would
        why = f"all techniques share {found.blocks} blocks (task, backbone, seed), and {FEWEST} are needed"
        return Ranks(origin, None, why)
    return Ranks(origin, found, "")
