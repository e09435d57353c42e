"""PSCP: a score with penalties for what it cost (PEFT-Bench, Belanec et al. 2025, arXiv 2511.21285).

Equation    P * prod_i (1 + x_i / c_i)^(-beta_i)
Costs       trainable parameters (c = 5e8); operations of a forward pass beyond the base's, in units of 1e12, as the
            authors' own calculation has them (c = 10); peak memory of training in GB (c = 94)
Exponents   beta = 1, each

One score among others: it says nothing about noise, and its ranking depends on the constants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from refarch.errors import UsageError, did_you_mean


class Cost(NamedTuple):
    """How one cost is weighed."""

    scale: float
    """c: the cost at which the score is divided by 2^beta."""
    exponent: float = 1.0
    """beta; 0 ignores the cost."""


COSTS: dict[str, Cost] = {
    "trainable_parameters": Cost(5e8),
    "extra_teraoperations": Cost(10.0),
    "peak_memory_gigabytes": Cost(94.0),
}
"""PEFT-Bench's costs and their defaults."""


def pscp(score: float, costs: Mapping[str, float], weights: Mapping[str, Cost] = COSTS) -> float:
    """The penalised score; never above the score itself.

    Args:
        score: not negative, greater is better, in any unit.
        costs: by name, not negative; every name in ``weights``.
        weights: how each cost is weighed.

    Raises:
        UsageError: a missing, unknown or negative cost, or a negative score.
    """
    unknown = [name for name in costs if name not in weights]
    missing = [name for name in weights if name not in costs]
    if unknown:
        raise UsageError(f"PSCP has no cost {unknown[0]!r}", did_you_mean(unknown[0], weights))
    if missing:
        raise UsageError(f"PSCP needs the cost {missing[0]!r}", "give it, or weights without it")
    bad = [name for name, value in {"score": score, **costs}.items() if not value >= 0 or math.isinf(value)]
    if bad:
        raise UsageError(f"PSCP: {bad[0]} is {({'score': score, **costs})[bad[0]]}, but must be a number from 0 up")
    return score * math.prod((1 + costs[name] / w.scale) ** -w.exponent for name, w in weights.items())
