"""The figures that results are compared by: their names in words, their units, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple

from refarch_compare.evidence.row import Row

Unit = Literal["count", "bytes", "seconds", "number"]

COSTS: dict[str, tuple[str, Unit]] = {
    "trainable_parameters": ("trainable parameters", "count"),
    "module_parameters": ("parameters in modules", "count"),
    "saved_bytes": ("saved", "bytes"),
    "peak_memory_bytes": ("peak memory", "bytes"),
    "train_seconds": ("training time", "seconds"),
    "seconds_per_step": ("time a step", "seconds"),
    "steps": ("steps", "count"),
    "learning_rate": ("learning rate", "number"),
}
"""Fields of a row that are figures, in the order of the columns."""
SHOWN = ("trainable_parameters", "saved_bytes", "peak_memory_bytes", "seconds_per_step")
"""The columns that a table begins with; a reader may ask for others."""
MORE_IS_BETTER = ("accuracy", "f1", "score", "similarity", "matthews", "bleu", "rouge", "pearson", "spearman", "match")
"""What the names of measures hold of which more is better; of every other one less is taken to be."""


class Figure(NamedTuple):
    """A figure of results."""

    name: str
    label: str
    unit: Unit
    less: bool
    """Whether less is better."""


def figures(rows: Sequence[Row]) -> list[Figure]:
    """The figures that any of the rows has: costs first, then measures by name."""
    found = [
        Figure(name, label, unit, less=True)
        for name, (label, unit) in COSTS.items()
        if any(getattr(row, name) is not None for row in rows)
    ]
    measures = sorted({name for row in rows for name in row.measures})
    return found + [_measure(name) for name in measures]


def _measure(name: str) -> Figure:
    unit: Unit = "seconds" if name.endswith("seconds") else "bytes" if name.endswith("bytes") else "number"
    return Figure(name, name.replace("_", " "), unit, less=not any(word in name.lower() for word in MORE_IS_BETTER))


def mean_of(figure: Figure, rows: Iterable[Row]) -> float | None:
    """The mean of a figure over those rows that have it; None if none has."""
    values = [getattr(row, figure.name) if figure.name in COSTS else row.measures.get(figure.name) for row in rows]
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None


def shown(value: float | None, unit: Unit) -> str:
    """A figure as a person reads it: ``1.2 M``, ``4.6 MB``, ``380 ms``; nothing for None."""
    if value is None:
        return ""
    if unit == "seconds":
        return _seconds(value)
    if unit == "number" or abs(value) < 1000:
        return precise(value, 4) + (" B" if unit == "bytes" else "")
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{precise(value / size, 3)} {letter}" + ("B" if unit == "bytes" else "")
    return precise(value, 4)


def _seconds(value: float) -> str:
    if abs(value) >= 3600:
        return f"{precise(value / 3600, 3)} h"
    if abs(value) >= 60:
        return f"{precise(value / 60, 3)} min"
    return f"{precise(value, 3)} s" if abs(value) >= 1 else f"{precise(value * 1000, 3)} ms"


def precise(value: float, digits: int) -> str:
    """A number with so many significant digits, without an exponent unless it is tiny: as JavaScript writes it."""
    rounded = float(f"{value:.{digits}g}")
    if rounded and abs(rounded) < 1e-6:
        return repr(rounded).replace("e-0", "e-")
    text = format(Decimal(repr(rounded)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
