"""Curves of runs from their metrics files: how a score grew with steps and with seconds of training."""

from __future__ import annotations

from pathlib import Path

from refarch.architecture import Spec
from refarch_compare.metrics import METRICS, is_number, lines


class Point(Spec):
    """One evaluation on the way."""

    step: int
    seconds: float
    """Of training that led to it: wall-clock time without evaluations and checkpoints."""
    value: float


class Reached(Spec):
    """When a run first came to a target."""

    target: float
    step: int | None
    """None if it never did."""
    seconds: float | None
    best: float
    """The best value on the curve."""
    trained: float
    """Seconds to the last evaluation."""

    def measures(self, metric: str) -> dict[str, float]:
        """The same as named numbers; without seconds and steps if it was not reached."""
        name = f"{metric}_{self.target:g}"
        found: dict[str, float] = {f"reached_{name}": float(self.step is not None)}
        if self.step is not None and self.seconds is not None:
            found |= {f"steps_to_{name}": float(self.step), f"seconds_to_{name}": self.seconds}
        return found


def curve(run: Path, metric: str, split: str = "validation") -> list[Point]:
    """A metric's values on a split in a run's ``metrics.jsonl``, by step; empty if there are none."""
    points: dict[int, Point] = {}
    for line in lines(run / METRICS):
        if line.get("split") == split and is_number(line.get("step")) and is_number(line.get(metric)):
            seconds = line["seconds"] if is_number(line.get("seconds")) else 0.0
            points[int(line["step"])] = Point(step=int(line["step"]), seconds=float(seconds), value=float(line[metric]))
    return [points[step] for step in sorted(points)]


def reached(points: list[Point], target: float, greater_is_better: bool) -> Reached:
    """When a curve first came to a target. It is known as finely as the run was evaluated, never between.

    Args:
        points: at least one.
        target: a value of the metric.
        greater_is_better: the metric's direction.
    """
    sign = 1.0 if greater_is_better else -1.0
    first = next((point for point in points if sign * point.value >= sign * target), None)
    return Reached(
        target=target,
        step=first.step if first else None,
        seconds=first.seconds if first else None,
        best=max((point.value for point in points), key=lambda value: sign * value),
        trained=points[-1].seconds,
    )
