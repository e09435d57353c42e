"""Ranks over blocks: the Friedman test and Nemenyi's critical difference, after Demsar 2006 (JMLR 7, 1-30)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from refarch.errors import UsageError
from refarch_compare.stats.paired import Scores


class Ranking(NamedTuple):
    """Mean ranks (1 is best) and which of them differ."""

    names: tuple[str, ...]
    """Best first."""
    ranks: tuple[float, ...]
    blocks: int
    chi_square: float
    f: float
    """Iman and Davenport's statistic, less conservative than chi-square."""
    p: float
    """Of ``f``: that all techniques are the same."""
    critical_difference: float
    """Mean ranks that differ by less than this are not told apart."""
    groups: tuple[tuple[str, ...], ...]
    """Maximal runs of techniques that are not told apart: the bars of a critical difference diagram."""
    alpha: float
    dropped: int
    """Blocks left out because not every technique has a score there."""

    def sentence(self) -> str:
        """What the ranking shows, in words."""
        order = ", ".join(f"{name} {rank:.2f}" for name, rank in zip(self.names, self.ranks, strict=True))
        p = f"= {self.p:.2g}" if self.p >= 1e-4 else "< 0.0001"
        basis = f"over {self.blocks} blocks (Friedman p {p})"
        if self.p > self.alpha:
            return f"No technique stands out {basis}; mean ranks: {order}"
        distance = f"{self.critical_difference:.2f}"
        return f"The techniques differ {basis}; mean ranks less than {distance} apart are not told apart: {order}"


def rank(scores: Scores, *, greater_is_better: bool = True, alpha: float = 0.05) -> Ranking:
    """Rank techniques on every block that all of them share.

    Statistics are Demsar's, without a correction for ties, which errs on the side of saying nothing.

    Raises:
        UsageError: fewer than two techniques, or fewer than two blocks that all share.
    """
    names = list(scores)
    if len(names) < 2:
        raise UsageError("ranks need two techniques or more")
    every: dict[Hashable, None] = dict.fromkeys(block for by_block in scores.values() for block in by_block)
    shared = [block for block in every if all(block in by_block for by_block in scores.values())]
    if len(shared) < 2:
        raise UsageError(
            f"ranks need two blocks (task, backbone, seed) that all techniques share, but there are {len(shared)}",
            "leave out techniques that were measured elsewhere, or measure what is missing",
        )
    table = np.array([[scores[name][block] for name in names] for block in shared], dtype=float)  # n k
    ranked = stats.rankdata(-table if greater_is_better else table, axis=1)
    means = ranked.mean(axis=0)
    count, k = table.shape
    chi, f, p = friedman(means, count)
    difference = critical_difference(k, count, alpha)
    order = np.argsort(means, kind="stable")
    sorted_names = tuple(names[i] for i in order)
    sorted_ranks = tuple(float(means[i]) for i in order)
    groups = _groups(sorted_names, sorted_ranks, difference)
    return Ranking(sorted_names, sorted_ranks, count, chi, f, p, difference, groups, alpha, len(every) - len(shared))


def friedman(means: Sequence[float] | np.ndarray, blocks: int) -> tuple[float, float, float]:
    """Friedman's chi-square, Iman and Davenport's F and its p, from mean ranks over ``blocks``."""
    k = len(means)
    chi = 12 * blocks / (k * (k + 1)) * (float(np.square(means).sum()) - k * (k + 1) ** 2 / 4)
    rest = blocks * (k - 1) - chi
    f = float("inf") if rest <= 1e-12 else (blocks - 1) * chi / rest
    return chi, f, float(stats.f.sf(f, k - 1, (k - 1) * (blocks - 1)))


def nemenyi_q(k: int, alpha: float = 0.05) -> float:
    """The critical value of k techniques: the studentised range for infinite degrees of freedom, over sqrt(2)."""
    return float(stats.studentized_range.ppf(1 - alpha, k, np.inf)) / float(np.sqrt(2))


def critical_difference(k: int, blocks: int, alpha: float = 0.05) -> float:
    """How far two mean ranks must lie apart: ``q sqrt(k (k + 1) / (6 n))``."""
    return nemenyi_q(k, alpha) * float(np.sqrt(k * (k + 1) / (6 * blocks)))


def _groups(names: Sequence[str], ranks: Sequence[float], difference: float) -> tuple[tuple[str, ...], ...]:
    found: list[tuple[int, int]] = []
    for start in range(len(ranks)):
        end = max(i for i in range(start, len(ranks)) if ranks[i] - ranks[start] < difference)
        if end > start and not (found and found[-1][1] >= end):
            found.append((start, end))
    return tuple(tuple(names[start : end + 1]) for start, end in found)
