"""Learning curves: what runs logged on the way, as a mean over seeds with the range of the seeds around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from refarch_compare.evidence.reading import SUFFIX
from refarch_compare.evidence.row import Row
from refarch_compare.metrics import METRICS, is_number, lines

NO_METRICS = ("step", "seconds", "epoch", "runtime", "samples_per_second", "steps_per_second", "learning_rate")
"""Figures of a line that say how it went, not how well."""
MOST = 120
"""Points of a curve that are kept."""


class Curve(NamedTuple):
    """One figure over the training of one configuration."""

    split: str
    metric: str
    steps: tuple[int, ...]
    seconds: tuple[float | None, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    """The least of the seeds at each step."""
    high: tuple[float, ...]
    runs: int

    @property
    def label(self) -> str:
        """In words."""
        return f"{self.metric} ({self.split})"


def curves(rows: Sequence[Row]) -> list[Curve]:
    """The curves of a configuration, from the files beside its records; none where there are no such files.

    A step counts where every run has it, so that a mean is always over the same seeds.
    """
    runs = [found for row in rows if (found := _series(Path(row.path)))]
    names = dict.fromkeys(name for run in runs for name in run)
    return [_curve(*name, [run[name] for run in runs if name in run]) for name in names]


def _curve(split: str, metric: str, runs: Sequence[dict[int, tuple[float, float | None]]]) -> Curve:
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    if len(steps) > MOST:  # evenly, with the first and the last
        steps = [steps[round(i * (len(steps) - 1) / (MOST - 1))] for i in range(MOST)]
    values = [[run[step][0] for run in runs] for step in steps]
    times = [[run[step][1] for run in runs] for step in steps]
    return Curve(
        split=split,
        metric=metric,
        steps=tuple(steps),
        seconds=tuple(_mean(known) if all(t is not None for t in known) else None for known in times),
        mean=tuple(_mean(known) for known in values),
        low=tuple(min(known) for known in values),
        high=tuple(max(known) for known in values),
        runs=len(runs),
    )


def _mean(values: Sequence[float | None]) -> float:
    return sum(value for value in values if value is not None) / len(values)


def _series(record: Path) -> dict[tuple[str, str], dict[int, tuple[float, float | None]]]:
    """Of one run: for each split and figure, the value and the seconds at each step."""
    found: dict[tuple[str, str], dict[int, tuple[float, float | None]]] = {}
    for line in lines(beside(record)):
        split, step, seconds = line.get("split"), line.get("step"), line.get("seconds")
        if not isinstance(split, str) or not isinstance(step, int) or split == "test":
            continue
        time = float(seconds) if seconds is not None and is_number(seconds) else None
        for name, value in line.items():
            if name not in NO_METRICS and not name.startswith("grad") and is_number(value):
                found.setdefault((split, name), {})[step] = float(value), time
    return found


def beside(record: Path) -> Path:
    """Where the metrics of a record are."""
    if record.name.endswith(SUFFIX):
        return record.with_name(record.name.removesuffix(SUFFIX) + "." + METRICS)
    return record.with_name(METRICS)
