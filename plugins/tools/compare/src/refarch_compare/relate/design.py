"""From rows to numbers: what is explained, the properties as columns, what is held fixed, and who is one technique."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refarch.errors import UnknownNameError, UsageError, did_you_mean
from refarch_compare.evidence.query import flat
from refarch_compare.evidence.row import Row
from refarch_compare.relate.properties import table

COSTS = ("bytes", "seconds", "parameters", "tokens")
"""What the name of a response ends with that is related as a ratio: such figures multiply."""
COVARIATES = ("trainable_parameters", "learning_rate")
"""What is held fixed, in decades: budgets and learning rates go with scores whatever the structure."""
BLOCK = {"backbone": "backbone", "task": "problem"}
"""What rows are grouped by, and the field of a row that says it."""


@dataclass(frozen=True, eq=False)
class Column:
    """One column of the design: a property having a value rather than the reference, or a covariate."""

    of: str
    """The property, or the covariate."""
    value: str
    """Empty for a covariate, whose unit is a decade."""
    reference: str
    numbers: np.ndarray  # n

    @property
    def name(self) -> str:
        """In words: ``insertion = parallel``."""
        return f"{self.of} = {self.value}" if self.value else f"log10 {self.of}"


@dataclass(frozen=True)
class Design:
    """Everything that a fit needs."""

    rows: tuple[Row, ...]
    response: str
    unit: str
    logarithmic: bool
    y: np.ndarray  # n
    columns: tuple[Column, ...]
    properties: dict[str, list[str]]
    """The properties that vary, by name: a value for each row."""
    constant: tuple[tuple[str, str], ...]
    """Properties that all rows share, and their value."""
    groups: dict[str, list[str]]
    """Backbone and task of each row, where there are several."""
    configurations: list[str]
    """What each row's configured technique is; rows that differ in seed alone share it."""
    left_out: int
    """Rows without a structure or without the response."""

    @property
    def matrix(self) -> np.ndarray:
        """The columns side by side.  # n p"""
        return (
            np.column_stack([column.numbers for column in self.columns]) if self.columns else np.empty((len(self.y), 0))
        )


def design(rows: Sequence[Row], response: str = "score", only: Sequence[str] = ()) -> Design:
    """Turn evidence into a design.

    Args:
        rows: evidence.
        response: a numeric column of the evidence: the score, a cost or a measure.
        only: the properties to relate; all that vary when left out.

    Raises:
        UnknownNameError: there is no such column or property; names the nearest.
        UsageError: no row has both a structure and the response.
    """
    values = [flat(row).get(response) for row in rows]
    if not any(_is_number(value) for value in values):
        known = {name for row in rows for name, value in flat(row).items() if _is_number(value)}
        raise UnknownNameError(f"evidence has no figure {response!r}", did_you_mean(response, known))
    pairs = zip(rows, values, strict=True)
    kept = [(row, float(value or 0)) for row, value in pairs if row.specs and _is_number(value)]
    if not kept:
        raise UsageError(
            f"no row has both {response!r} and a technique that is installed", "install the techniques' plugins"
        )
    chosen, raw = tuple(row for row, _ in kept), np.array([value for _, value in kept])
    found = table(chosen)
    for name in only:
        if name not in found:
            raise UnknownNameError(f"there is no property {name!r}", did_you_mean(name, found))
    found = {name: values for name, values in found.items() if not only or name in only}
    varying = {name: values for name, values in found.items() if len(set(values)) > 1}
    constant = tuple((name, values[0]) for name, values in found.items() if name not in varying)
    logarithmic = response.endswith(COSTS) and bool((raw > 0).all())
    y, unit = _scaled(chosen, raw, response, logarithmic)
    return Design(
        rows=chosen,
        response=response,
        unit=unit,
        logarithmic=logarithmic,
        y=y,
        columns=(*_columns(varying), *_covariates(chosen, response)),
        properties=varying,
        constant=constant,
        groups=_groups(chosen),
        configurations=[_configuration(row) for row in chosen],
        left_out=len(rows) - len(chosen),
    )


def _groups(rows: Sequence[Row]) -> dict[str, list[str]]:
    """What rows are grouped by, where it varies; two that group them alike are one."""
    groups: dict[str, list[str]] = {}
    for name, field in BLOCK.items():
        labels = [str(getattr(row, field)) for row in rows]
        same = next((other for other, others in groups.items() if _partition(others) == _partition(labels)), None)
        if same is not None:
            groups[f"{same} and {name}"] = groups.pop(same)
        elif len(set(labels)) > 1:
            groups[name] = labels
    return groups


def _partition(labels: Sequence[str]) -> list[int]:
    first: dict[str, int] = {}
    return [first.setdefault(label, position) for position, label in enumerate(labels)]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _configuration(row: Row) -> str:
    return f"{row.technique} {json.dumps(row.options, sort_keys=True, default=str)}"


def _scaled(rows: Sequence[Row], raw: np.ndarray, response: str, logarithmic: bool) -> tuple[np.ndarray, str]:
    """The response turned so that scores of several metrics can stand in one table."""
    if logarithmic:
        return np.log10(raw), "as a ratio"
    if response != "score":
        return raw, response
    metrics = {(row.metric, row.greater_is_better) for row in rows}
    signs = np.array([1.0 if row.greater_is_better else -1.0 for row in rows])
    if len(metrics) == 1:
        metric, greater = next(iter(metrics))
        return raw * signs, metric if greater else f"{metric}, turned so that more is better"
    scaled = raw * signs
    for metric in {row.metric for row in rows}:
        where = np.array([row.metric == metric for row in rows])
        spread = scaled[where].std()
        scaled[where] = (scaled[where] - scaled[where].mean()) / (spread if spread > 0 else 1.0)
    return scaled, "standard deviations of the metric"


def _columns(varying: dict[str, list[str]]) -> list[Column]:
    """A column for each value of each property but the most common one."""
    columns = []
    for name, values in varying.items():
        counts = Counter(values)
        reference = min(counts, key=lambda value: (-counts[value], value))
        for value in sorted(counts):
            if value != reference:
                numbers = np.array([float(item == value) for item in values])
                columns.append(Column(name, value, reference, numbers))
    return columns


def _covariates(rows: Sequence[Row], response: str) -> list[Column]:
    columns = []
    for name in COVARIATES:
        values = [getattr(row, name) for row in rows]
        if name != response and all(value is not None and value > 0 for value in values) and len(set(values)) > 1:
            columns.append(Column(name, "", "", np.log10(np.array(values, dtype=float))))
    return columns
