"""Labelled texts that remember where they came from, and the checks that a column of texts or labels must pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from refarch.errors import DataError, did_you_mean
from refarch.pipeline.files import Table


@dataclass(frozen=True)
class Examples:
    """Labelled texts.

    Attributes:
        texts: one each.
        labels: their labels' names.
        source: the file or data set, for messages.
        lines: where each stands in its source, counted from 1.
        unit: what ``lines`` counts.
    """

    texts: Sequence[str]
    labels: Sequence[str]
    source: str
    lines: Sequence[int]
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.texts)

    def where(self, index: int) -> str:
        """The place of an example, for a message: ``train.csv, line 7``."""
        return f"{self.source}, {self.unit} {self.lines[index]}"

    def select(self, indices: Iterable[int]) -> Examples:
        """These examples, in this order."""
        chosen = [int(index) for index in indices]
        return replace(
            self,
            texts=[self.texts[i] for i in chosen],
            labels=[self.labels[i] for i in chosen],
            lines=[self.lines[i] for i in chosen],
        )


@dataclass(frozen=True)
class Corpus:
    """What a source holds.

    Attributes:
        train: must be there.
        validation: made from ``train`` when None.
        test: made from ``train`` when None.
        names: the labels' names in the order of their numbers, where the source says; otherwise found in ``train``.
    """

    train: Examples
    validation: Examples | None = None
    test: Examples | None = None
    names: Sequence[str] | None = None


def from_table(table: Table, text_column: str, label_column: str, names: Sequence[str] | None = None) -> Examples:
    """Check a table's texts and labels.

    Args:
        table: what was read.
        text_column: must hold text that is not blank.
        label_column: strings, whole numbers or truth values; blanks around a string are dropped.
        names: when labels are numbers that stand for these names.

    Raises:
        DataError: a column is missing (with the nearest names), or a text or label is missing, with its line.
    """
    texts = [_text(value, table, index, text_column) for index, value in enumerate(table.column(text_column))]
    labels = [
        _label(value, table, index, label_column, names) for index, value in enumerate(table.column(label_column))
    ]
    return Examples(texts, labels, table.path, table.lines, table.unit)


def _text(value: Any, table: Table, index: int, column: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(f"{table.where(index)}: no text in column {column!r}", "fill it in or remove the row")
    if not isinstance(value, str):
        raise DataError(
            f"{table.where(index)}: column {column!r} should hold text, but has {_shown(value)}",
            "choose another text_column",
        )
    return value


def _label(value: Any, table: Table, index: int, column: str, names: Sequence[str] | None) -> str:
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)  # data frames turn whole numbers into floats where a value is missing
    blank = isinstance(value, str) and not value.strip()
    unlabelled = names is not None and value == -1  # the convention of public data sets that keep labels to themselves
    if value is None or blank or unlabelled or (isinstance(value, float) and math.isnan(value)):
        raise DataError(
            f"{table.where(index)}: no label in column {column!r}",
            "fill it in or remove the row" if not unlabelled else "this split has no labels; name another one",
        )
    if not isinstance(value, (str, int)):
        raise DataError(
            f"{table.where(index)}: a label is a string or a whole number, but column {column!r} has {_shown(value)}",
            "choose another label_column",
        )
    if names is not None and isinstance(value, int):
        if not 0 <= value < len(names):
            raise DataError(
                f"{table.where(index)}: label {value} is not one of the {len(names)} that the data declares"
            )
        return names[value]
    return str(value).strip()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def label_names(train: Examples) -> list[str]:
    """The labels that occur, as numbers where all are, otherwise in alphabetical order.

    Raises:
        DataError: there are fewer than two.
    """
    found = set(train.labels)
    if len(found) < 2:
        raise DataError(
            f"{train.source}: all rows have the label {next(iter(found), '')!r}; classification needs two at least",
            "choose another label_column, or add rows of another label",
        )
    numeric = all(name.lstrip("-").isdecimal() and str(int(name)) == name for name in found)
    return sorted(found, key=int) if numeric else sorted(found)


def numbered(examples: Examples, names: Sequence[str]) -> list[int]:
    """The labels as indices into ``names``.

    Raises:
        DataError: a label is not among them, with its line.
    """
    index = {name: number for number, name in enumerate(names)}
    for position, label in enumerate(examples.labels):
        if label not in index:
            raise DataError(
                f"{examples.where(position)}: the label {label!r} does not occur in the train rows",
                did_you_mean(label, names),
            )
    return [index[label] for label in examples.labels]
