"""How long the rest of a study will take, from what its finished parts took; nothing is said before there are any."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Key = tuple[str, str, str]
"""Technique, task and backbone."""


@dataclass(frozen=True)
class Left:
    """Seconds that are left.

    Attributes:
        likely: from the medians of what is most like the rest.
        low: if everything goes as fast as the fastest of these.
        high: as slow as the slowest.
        known: the share of the rest for which the very same technique, task and backbone were timed before.
    """

    likely: float
    low: float
    high: float
    known: float

    def __add__(self, other: Left) -> Left:
        """One after the other."""
        total = self.likely + other.likely
        known = (self.known * self.likely + other.known * other.likely) / total if total else 1.0
        return Left(total, self.low + other.low, self.high + other.high, known)

    def __str__(self) -> str:
        if self.likely < 1:
            return "nearly done"
        ends = duration(self.low), duration(self.high)
        spread = f" ({ends[0]} to {ends[1]})" if self.high > 1.15 * self.low and ends[0] != ends[1] else ""
        return f"about {duration(self.likely)} left{spread}" + ("" if self.known >= 1 else ", some of it a guess")


@dataclass
class Timed:
    """What parts of a study took: cells, or trials of its searches."""

    seconds: dict[Key, list[float]] = field(default_factory=dict)

    def add(self, key: Key, seconds: float) -> None:
        """One of them took so long."""
        self.seconds.setdefault(key, []).append(seconds)

    def like(self, key: Key) -> tuple[Sequence[float], bool]:
        """What the parts most like one took, and whether they are of the very same kind."""
        if key in self.seconds:
            return self.seconds[key], True
        for same in ((1, 2), (2,), ()):
            found = [
                value
                for other, values in self.seconds.items()
                if all(other[i] == key[i] for i in same)
                for value in values
            ]
            if found:
                return found, False
        return (), False

    def left(
        self, rest: Iterable[Key], workers: int = 1, running: Key | None = None, spent: float = 0.0
    ) -> Left | None:
        """What the rest will take, or None before anything is known.

        Args:
            rest: the parts to come, the one that runs included.
            workers: processes that share them.
            running: what this process is at.
            spent: seconds that it has spent on it; one that takes longer than expected makes the others no shorter.
        """
        keys = list(rest)
        found = [self.like(key) for key in keys]
        if not all(values for values, _ in found):
            return None
        now = self.like(running)[0] if running else ()
        sums = [
            sum(part(values) for values, _ in found) - (min(spent, part(now)) if now else 0.0)
            for part in (statistics.median, min, max)
        ]
        likely, low, high = (max(0.0, total) / max(1, workers) for total in sums)
        return Left(likely, low, high, sum(same for _, same in found) / max(1, len(found)))


def duration(seconds: float) -> str:
    """Seconds as people say them: ``40 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
