"""Labelled texts that remember where they came from, and the checks that a column of texts or labels must pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from refarch.errors import DataError, did_you_mean
from refarch.tasks import Table, shown, text_of


@dataclass(frozen=True)
class Examples:
    """Labelled texts.

    Attributes:
        texts: one each.
        labels: their labels' names.
        source: the file or data set, for messages.
        lines: where each stands in its source, counted from 1.
        unit: what ``lines`` counts.
        pairs: the second text of each, for tasks about pairs.
    """

    texts: Sequence[str]
    labels: Sequence[str]
    source: str
    lines: Sequence[int]
    unit: str = "line"
    pairs: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def whole(self, index: int) -> str:
        """All that an example says: its text, or both."""
        return self.texts[index] if self.pairs is None else f"{self.texts[index]}\n{self.pairs[index]}"

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
            pairs=None if self.pairs is None else [self.pairs[i] for i in chosen],
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

    @property
    def given(self) -> dict[str, Examples]:
        """The splits that are there, by name."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}


def from_table(
    table: Table,
    text_column: str,
    label_column: str,
    names: Sequence[str] | None = None,
    pair_column: str | None = None,
    numbers: bool = False,
) -> Examples:
    """Check a table's texts and labels.

    Args:
        table: what was read.
        text_column: must hold text that is not blank; ``a+b`` for the texts of two columns with a blank between them.
        label_column: strings, whole numbers or truth values; blanks around a string are dropped.
        names: when labels are numbers that stand for these names.
        pair_column: of the second texts, if there are any.
        numbers: whether labels are numbers to predict, and no classes.

    Raises:
        DataError: a column is missing (with the nearest names), or a text or label is missing, with its line.
    """
    rows = range(len(table))
    texts = [_text(table, index, text_column) for index in rows]
    pairs = None if pair_column is None else [_text(table, index, pair_column) for index in rows]
    column = table.column(label_column)
    if numbers:
        labels = [_number(column[index], table, index, label_column) for index in rows]
    else:
        labels = [_label(column[index], table, index, label_column, names) for index in rows]
    return Examples(texts, labels, table.path, table.lines, table.unit, pairs)


def _text(table: Table, index: int, column: str) -> str:
    parts = [column] if column in table.columns else column.split("+")
    return " ".join(text_of(table, index, part) for part in parts)


def _number(value: Any, table: Table, index: int, column: str) -> str:
    """A number, as text that gives it back exactly."""
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not math.isfinite(number):
        raise DataError(
            f"{table.where(index)}: column {column!r} should hold a number, but has {shown(value)}",
            "fill it in, or choose another label_column",
        )
    return repr(number)


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
            f"{table.where(index)}: a label is a string or a whole number, but column {column!r} has {shown(value)}",
            "choose another label_column",
        )
    if names is not None and isinstance(value, int):
        if not 0 <= value < len(names):
            raise DataError(
                f"{table.where(index)}: label {value} is not one of the {len(names)} that the data declares"
            )
        return names[value]
    return str(value).strip()


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
