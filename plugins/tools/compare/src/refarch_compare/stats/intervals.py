"""Means over seeds, with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from refarch.errors import UsageError

Method = Literal["t", "bootstrap"]


class Interval(NamedTuple):
    """A mean and its confidence interval; ``low`` and ``high`` are None with fewer than two values."""

    mean: float
    low: float | None
    high: float | None
    spread: float | None
    """The sample's standard deviation (with n - 1)."""
    n: int
    level: float

    @property
    def half(self) -> float | None:
        """Half the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean_interval(
    values: Sequence[float], level: float = 0.95, method: Method = "t", resamples: int = 9999, seed: int = 0
) -> Interval:
    """The mean of some values and its confidence interval.

    ``t`` is exact for normal values at any count. ``bootstrap`` assumes no distribution (the bias-corrected and
    accelerated interval of Efron 1987), but is too narrow for a handful of seeds.

    Args:
        values: n of them, finite.
        level: the confidence, between 0 and 1.
        method: ``t`` or ``bootstrap``.
        resamples: of the bootstrap.
        seed: of the bootstrap's draws.

    Raises:
        UsageError: no value, one that is not finite, or a level out of range.
    """
    data = finite(values)
    if not 0 < level < 1:
        raise UsageError(f"a confidence level lies between 0 and 1, not at {level}")
    n, mean = len(data), float(data.mean())
    if n < 2:
        return Interval(mean, None, None, None, n, level)
    spread = float(data.std(ddof=1))
    if spread == 0 or np.ptp(data) == 0:
        return Interval(mean, mean, mean, 0.0, n, level)
    if method == "t":
        half = float(stats.t.ppf((1 + level) / 2, n - 1)) * spread / float(np.sqrt(n))
        return Interval(mean, mean - half, mean + half, spread, n, level)
    found = stats.bootstrap(
        (data,),
        np.mean,
        confidence_level=level,
        n_resamples=resamples,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), spread, n, level)


def finite(values: Sequence[float]) -> np.ndarray:
    """The values as an array.

    Raises:
        UsageError: there are none, or one is not finite.
    """
    data = np.asarray(list(values), dtype=float)
    if not data.size:
        raise UsageError("there are no values to take a mean of")
    if not np.isfinite(data).all():
        raise UsageError(f"the values {data.tolist()} are not all finite numbers")
    return data
