"""Pareto fronts: what nothing else beats on every measure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from refarch.errors import UsageError

Direction = Literal["max", "min"]


class Front(NamedTuple):
    """Which of the points nothing dominates."""

    front: tuple[int, ...]
    """Positions of the points on the front, in the order given."""
    dominated: dict[int, int]
    """Every other point, and one on the front that is at least as good everywhere and better somewhere."""
    incomplete: tuple[int, ...]
    """Points that lack one of the measures; they are neither on the front nor off it."""


def pareto(points: Sequence[Mapping[str, float | None]], directions: Mapping[str, Direction]) -> Front:
    """The front of points by their measures. Equal points are all on it.

    Args:
        points: measures by name; other names than those in ``directions`` are ignored.
        directions: of each measure that counts, whether more (``max``) or less (``min``) is better.

    Raises:
        UsageError: no measures, or a direction that is neither.
    """
    wrong = [name for name, way in directions.items() if way not in ("max", "min")]
    if not directions or wrong:
        raise UsageError(f"say of each measure whether its direction is 'max' or 'min'; got {dict(directions)}")
    costs: dict[int, tuple[float, ...]] = {}
    incomplete = []
    for index, point in enumerate(points):
        values = [point.get(name) for name in directions]
        if any(value is None or math.isnan(value) for value in values):
            incomplete.append(index)
            continue
        costs[index] = tuple(
            float(-value if way == "max" else value)
            for value, way in zip(values, directions.values(), strict=True)
            if value is not None
        )
    # In ascending order of cost a point can be dominated by earlier ones only, and then by one of the front so far.
    front: list[int] = []
    dominated: dict[int, int] = {}
    for index in sorted(costs, key=lambda i: (costs[i], i)):
        better = next((i for i in front if _dominates(costs[i], costs[index])), None)
        if better is None:
            front.append(index)
        else:
            dominated[index] = better
    return Front(tuple(sorted(front)), dominated, tuple(incomplete))


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
