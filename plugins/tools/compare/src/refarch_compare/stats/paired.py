"""Two or more techniques compared on the same blocks (task, backbone, seed), with correction for many comparisons."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from refarch.errors import UsageError
from refarch_compare.stats.intervals import Interval, mean_interval

Test = Literal["t", "wilcoxon"]
Verdict = Literal["better", "worse", "within noise", "too few blocks"]
Scores = Mapping[str, Mapping[Hashable, float]]
"""Of each technique: its score by block."""

FEWEST = 3
"""Fewer blocks than this say nothing about noise: with two, a t test needs a difference of 13 standard errors."""


class Pair(NamedTuple):
    """What the blocks that two techniques share say about their difference, ``first - second``, more being better."""

    first: str
    second: str
    difference: Interval
    t_p: float | None
    """Two-sided p of the paired t test; None with fewer than two blocks."""
    wilcoxon_p: float | None
    """Two-sided p of the signed-rank test; None with fewer than two blocks."""
    effect: float | None
    """Cohen's d of the differences: their mean over their standard deviation."""
    rank_effect: float | None
    """The matched-pairs rank-biserial correlation, from -1 to 1: how much of the ranks lies on one side."""
    corrected_p: float | None
    """Of the chosen test, after Holm's correction."""
    verdict: Verdict
    test: Test
    comparisons: int
    """How many comparisons the correction was over."""

    @property
    def blocks(self) -> int:
        """How many blocks the two share."""
        return self.difference.n

    def sentence(self) -> str:
        """The verdict in words, with what it rests on."""
        return _sentence(self)


def compare(
    scores: Scores,
    *,
    greater_is_better: bool = True,
    baseline: str | None = None,
    test: Test = "t",
    alpha: float = 0.05,
) -> list[Pair]:
    """Compare techniques in pairs: all with all, or all with a baseline.

    The t test finds smaller differences with few blocks and assumes that differences are about normal; the signed-rank
    test assumes only that they are symmetric, which suits blocks of several tasks, but with n blocks its p is at least
    2 / 2^n.

    Args:
        scores: of each technique, by block. A pair is compared on the blocks that both have.
        greater_is_better: whether a greater score is better; the differences are turned so that it is.
        baseline: the technique that all others are compared with.
        test: whose p the verdict rests on.
        alpha: the rate of any false "better" or "worse" among all the comparisons.

    Raises:
        UsageError: fewer than two techniques, or an unknown baseline.
    """
    if len(scores) < 2:
        raise UsageError(f"a comparison needs two techniques, but there is {', '.join(scores) or 'none'}")
    if baseline is not None and baseline not in scores:
        raise UsageError(f"the baseline {baseline!r} has no scores", f"choose one of {', '.join(scores)}")
    names = list(scores)
    if baseline is None:
        pairs = list(itertools.combinations(names, 2))
    else:
        pairs = [(name, baseline) for name in names if name != baseline]
    sign = 1.0 if greater_is_better else -1.0
    raw = [_pair(a, b, sign * differences(scores[a], scores[b]), test, len(pairs), 1 - alpha) for a, b in pairs]
    testable = [pair for pair in raw if _p(pair) is not None]
    corrected = dict(zip(map(id, testable), holm([p for p in map(_p, testable) if p is not None]), strict=True))
    return [_judged(pair, corrected.get(id(pair)), alpha) for pair in raw]


def differences(first: Mapping[Hashable, float], second: Mapping[Hashable, float]) -> np.ndarray:
    """``first - second`` on each block that both have.  # n"""
    shared = [block for block in first if block in second]
    return np.array([first[block] - second[block] for block in shared], dtype=float)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979): p values that hold for all of them at once."""
    order = np.argsort(p, kind="stable")
    corrected, highest = [0.0] * len(p), 0.0
    for position, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - position) * p[index]))
        corrected[index] = highest
    return corrected


def least_p(blocks: int) -> float:
    """The smallest two-sided p that the signed-rank test can give for so many blocks."""
    return min(1.0, 2.0 ** (1 - blocks))


def _pair(first: str, second: str, data: np.ndarray, test: Test, comparisons: int, level: float) -> Pair:
    if not len(data):
        nothing = Interval(float("nan"), None, None, None, 0, level)
        return Pair(first, second, nothing, None, None, None, None, None, "too few blocks", test, comparisons)
    interval = mean_interval(data.tolist(), level)
    if len(data) < 2:
        return Pair(first, second, interval, None, None, None, None, None, "too few blocks", test, comparisons)
    if not data.any():  # equal everywhere: no test is defined, and no difference was seen
        return Pair(first, second, interval, 1.0, 1.0, 0.0, 0.0, None, "within noise", test, comparisons)
    spread = float(data.std(ddof=1))
    constant = spread <= 1e-12 * float(np.abs(data).max())
    # The same difference everywhere (scores are counts of few examples) has no spread to test it against: sign test.
    t_p = least_p(len(data)) if constant else float(stats.ttest_1samp(data, 0.0).pvalue)
    effect = float(np.copysign(np.inf, data.mean())) if constant else float(data.mean()) / spread
    wilcoxon_p = float(stats.wilcoxon(data).pvalue)
    return Pair(
        first, second, interval, t_p, wilcoxon_p, effect, rank_biserial(data), None, "within noise", test, comparisons
    )


def rank_biserial(data: np.ndarray) -> float:
    """The matched-pairs rank-biserial correlation (Kerby 2014): the share of ranks of gains less that of losses."""
    kept = data[data != 0]
    if not len(kept):
        return 0.0
    ranks = stats.rankdata(np.abs(kept))
    return float((ranks[kept > 0].sum() - ranks[kept < 0].sum()) / ranks.sum())


def _p(pair: Pair) -> float | None:
    return pair.t_p if pair.test == "t" else pair.wilcoxon_p


def _judged(pair: Pair, corrected: float | None, alpha: float) -> Pair:
    too_few = pair.blocks < FEWEST
    if pair.test == "wilcoxon":  # it could not tell a difference of any size
        too_few = too_few or least_p(pair.blocks) * pair.comparisons > alpha
    verdict: Verdict = "within noise"
    if too_few or corrected is None:
        verdict = "too few blocks"
    elif corrected <= alpha:
        verdict = "better" if pair.difference.mean > 0 else "worse"
    return pair._replace(corrected_p=corrected, verdict=verdict)


def _sentence(pair: Pair) -> str:
    first, second, found = pair.first, pair.second, pair.difference
    blocks = f"{pair.blocks} {'block' if pair.blocks == 1 else 'blocks'}"
    if not pair.blocks:
        return f"{first} and {second} share no block (task, backbone, seed), so nothing can be said"
    if pair.verdict == "too few blocks":
        return f"too few blocks to tell {first} from {second}: {found.mean:+.4g} over {blocks}; measure more seeds"
    correction = f" after Holm over {pair.comparisons} comparisons" if pair.comparisons > 1 else ""
    p = pair.corrected_p if pair.corrected_p is not None else 1.0
    basis = f"{found.level:.0%} interval {found.low:+.4g} to {found.high:+.4g}; p = {p:.2g}{correction}; {blocks}"
    if pair.verdict == "within noise":
        return f"the difference between {first} and {second}, {found.mean:+.4g}, is within noise ({basis})"
    return f"{first} is {pair.verdict} than {second} by {abs(found.mean):.4g} ({basis})"
