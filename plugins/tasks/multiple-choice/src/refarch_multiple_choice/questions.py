"""Questions with their choices, read from tables and checked."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from refarch.errors import DataError
from refarch.tasks import Items, Table, read_source, shown, text_of

FORMAT = "Answer format:"
"""In an instruction, what the labels of its choices stand behind: ``Answer format: answer1/answer2``."""
SECRET = "where a split keeps its answers secret, name another for it, such as test=validation"


class Question(NamedTuple):
    """What is asked."""

    text: str
    context: str
    choices: tuple[str, ...]
    answer: int
    """The right choice's number."""
    place: str
    """Of its row, for messages."""


Questions = Items[Question]
"""One split."""


def read_questions(options: Mapping[str, Any]) -> dict[str, Questions]:
    """Read all splits that the options name, and check them.

    Raises:
        UsageError: neither ``train`` nor ``dataset`` is set.
        DataError: a file or data set is missing or malformed; names the file and the line.
    """
    source = read_source(options, "multiple-choice")
    return {split: from_table(table, options) for split, table in source.tables.items()}


def from_table(table: Table, options: Mapping[str, Any]) -> Questions:
    """Check a table's questions.

    Raises:
        DataError: a column is missing (with the nearest names); a question lacks text, choices or its answer; with its
            line.
    """
    read = _instruction if options["instructions"] else _columns
    return Questions([read(table, index, options) for index in range(len(table))], table.path)


def _columns(table: Table, index: int, options: Mapping[str, Any]) -> Question:
    place, column = table.where(index), options["context_column"]
    text = text_of(table, index, options["question_column"])
    context = "" if column is None else text_of(table, index, column, blank=True)
    choices = _choices(table, index, options)
    labels = options["labels"]
    if options["label_column"] is not None:
        labels = table.value(index, options["label_column"])
        if not isinstance(labels, (list, tuple)):
            raise DataError(
                f"{place}: column {options['label_column']!r} should hold a list, but has {shown(labels)}",
                "choose another label_column",
            )
    if labels is not None and len(labels) != len(choices):
        raise DataError(f"{place}: {len(choices)} choices, but {len(labels)} labels", "give each choice one label")
    found = answer(table.value(index, options["answer_column"]), choices, labels, place, options["answer_column"])
    if options["blank"] is not None:
        text, choices = filled(text, choices, options["blank"], place)
    return Question(text, context, tuple(choices), found, place)


def _choices(table: Table, index: int, options: Mapping[str, Any]) -> list[str]:
    place, columns = table.where(index), options["choice_columns"]
    if options["choices"] is not None:
        choices, name = list(options["choices"]), "the option choices"
    elif len(columns) > 1:
        return [text_of(table, index, column).strip() for column in columns]
    else:
        choices, name = table.value(index, columns[0]), f"column {columns[0]!r}"
    if not isinstance(choices, (list, tuple)) or not all(isinstance(choice, str) for choice in choices):
        raise DataError(
            f"{place}: {name} should hold a list of texts, but has {shown(choices)}",
            "give lists in JSON, JSONL or parquet, or name one column a choice: choice_columns=a,b",
        )
    if len(choices) < 2 or not all(choice.strip() for choice in choices):
        raise DataError(f"{place}: {name} has {shown(choices)}", "give two choices at least, none of them empty")
    return [choice.strip() for choice in choices]


def answer(value: Any, choices: Sequence[str], labels: Sequence[Any] | None, place: str, column: str) -> int:
    """The number of the right choice.

    Args:
        value: one of the labels, where there are some; otherwise a number from 0, a letter from A, or the choice's
            text. A truth value is 0 or 1, or the label ``false`` or ``true``.
        choices: of the question.
        labels: of the choices.
        place: the question's, for messages.
        column: the answers', for messages.

    Raises:
        DataError: it is none of these, or more than one.
    """
    if labels is not None:
        names = [_label(label) for label in labels]
        found = [number for number, name in enumerate(names) if name == _label(value)]
        expected = "one of the labels " + ", ".join(map(repr, names))
    else:
        found = sorted(set(_numbers(value, choices)))
        expected = f"a number from 0 to {len(choices) - 1}, a letter, or a choice's text"
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{place}: the answer {shown(value)} in column {column!r} may mean any of the choices numbered {found}",
            "tell what answers are with labels=..., such as labels=0,1,2,3",
        )
    hidden = value in (None, "", -1, "-1")
    hint = SECRET if hidden else "correct it, choose another answer_column, or tell what answers are with labels=..."
    raise DataError(f"{place}: the answer {shown(value)} in column {column!r} is not {expected}", hint)


def _label(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _numbers(value: Any, choices: Sequence[str]) -> Iterable[int]:
    """Every choice that an answer without labels may mean."""
    if isinstance(value, int):  # a truth value too
        if 0 <= value < len(choices):
            yield int(value)
    elif isinstance(value, str):
        text = value.strip()
        yield from (number for number, choice in enumerate(choices) if choice == text)
        positions: Sequence[str] = [str(number) for number in range(len(choices))]
        for names in (positions, string.ascii_uppercase[: len(choices)]):
            if text and text in names:
                yield names.index(text)


def filled(text: str, choices: Sequence[str], blank: str, place: str) -> tuple[str, list[str]]:
    """A question up to its blank, and the choices with what follows it.

    Raises:
        DataError: there is not exactly one blank.
    """
    before, *after = text.split(blank)
    if len(after) != 1:
        raise DataError(f"{place}: the question has {len(after)} blanks {blank!r}", "write it once in each question")
    return before.rstrip(), [f"{choice}{after[0]}".strip() for choice in choices]


def _instruction(table: Table, index: int, options: Mapping[str, Any]) -> Question:
    place = table.where(index)
    text, found, form = text_of(table, index, options["question_column"]).rpartition(FORMAT)
    labels = [label.strip() for label in form.split("/")]
    if not found or len(labels) < 2:
        raise DataError(
            f"{place}: the instruction does not end with its labels",
            f"end it with '{FORMAT} answer1/answer2', or set instructions=false",
        )
    marks = [re.search(rf"\b{re.escape(label)}:", text, re.IGNORECASE) for label in labels]
    if any(marks):
        text, choices = _marked(text, labels, marks, place)
    else:
        choices = labels  # true/false
    column = options["answer_column"]
    return Question(
        text.strip(), "", tuple(choices), answer(table.value(index, column), choices, labels, place, column), place
    )


def _marked(
    text: str, labels: Sequence[str], marks: Sequence[re.Match[str] | None], place: str
) -> tuple[str, list[str]]:
    """A question, and the choices that stand behind their labels."""
    starts = [mark.start() if mark else -1 for mark in marks]
    if starts != sorted(starts) or -1 in starts:
        missing = [label for label, start in zip(labels, starts, strict=True) if start < 0]
        problem = f"has no choice {missing[0]!r}" if missing else "has its choices in another order than its labels"
        raise DataError(
            f"{place}: the instruction {problem}",
            f"write '{labels[0].capitalize()}: ...' and so on, in the order of the answer format",
        )
    ends = [*starts[1:], len(text)]
    choices = [text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True) if mark]
    if not all(choices):
        raise DataError(f"{place}: the choice {labels[choices.index('')]!r} is empty", "write its text behind it")
    return text[: starts[0]], choices
