"""Questions that remember where they came from, and the checks that their answers must pass."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refarch.errors import DataError, did_you_mean
from refarch.tasks import Items, Table, not_json, read_source, read_text, refuse_halves, shown, text_of

logger = logging.getLogger(__name__)
_FIELDS = ("id_column", "question_column", "context_column", "answers_column")


@dataclass(frozen=True)
class Question:
    """A question about a text.

    Attributes:
        text: the question, without blanks around it.
        context: the text.
        answers: the right answers; none where the text does not answer it.
        starts: of each answer the character of the context that it starts at; None where that is not known.
        place: where it stands, for messages.
    """

    text: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int | None, ...]
    place: str


Questions = Items[Question]
"""One split."""


@dataclass(frozen=True)
class SquadTable(Table):
    """A table from nested JSON, which says a row's place as a path: ``data[0].paragraphs[3].qas[1]``."""

    places: Sequence[str] = ()

    def where(self, index: int) -> str:
        """The place of a row: ``dev.json, data[0].paragraphs[3].qas[1]``."""
        return f"{self.path}, {self.places[index]}"


def read_questions(options: Mapping[str, Any], located: bool) -> dict[str, Questions]:
    """Read what the options of the task name, and check it.

    Args:
        options: the task's.
        located: whether each answer must be a part of its context.

    Raises:
        UsageError: neither ``train`` nor ``dataset`` is set.
        DataError: a file or data set is missing or malformed; names the file and the place.
    """
    source = read_source(options, "question-answering", {".json": lambda path: read_json(path, options)}, "id")
    return {name: from_table(table, options, located) for name, table in source.tables.items()}


def read_json(path: str, options: Mapping[str, Any]) -> Table:
    """Read SQuAD's nested JSON (``data``, ``paragraphs``, ``qas``), or a list of flat objects.

    Raises:
        DataError: it is not JSON, or of another form; says where.
    """
    text = read_text(path)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise not_json(path, line, error, "it may be truncated; one object a line is .jsonl") from None
    entries = data.get("data") if isinstance(data, dict) else data
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path} holds no list of questions", 'write {"data": [...]} as in SQuAD, or a list of objects')
    name = "data" if isinstance(data, dict) else ""
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    for index, entry in enumerate(entries):
        here = f"{name}[{index}]"
        flat = isinstance(entry, dict) and "paragraphs" not in entry
        if flat and (options["question_column"] in entry or not name):
            rows.append(entry)
            places.append(here)
            continue
        for number, paragraph in enumerate(_list(entry, "paragraphs", path, here)):
            inner = f"{here}.paragraphs[{number}]"
            for position, question in enumerate(_list(paragraph, "qas", path, inner)):
                places.append(f"{inner}.qas[{position}]")
                rows.append(_flat(question, paragraph, options, f"{path}, {places[-1]}"))
    if not rows:
        raise DataError(f"{path} holds no questions", "give a file with at least one")
    refuse_halves(text, rows, (f"{path}, {place}" for place in places))
    keys = dict.fromkeys(key for row in rows for key in row)
    columns = {key: [row.get(key) for row in rows] for key in keys}
    return SquadTable(path, columns, range(1, len(rows) + 1), "question", places)


def _list(entry: Any, key: str, path: str, place: str) -> list[Any]:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, list):
        known = entry if isinstance(entry, dict) else ()
        raise DataError(f"{path}, {place}: there is no list {key!r}", did_you_mean(key, map(str, known)))
    return value


def _flat(question: Any, paragraph: Mapping[str, Any], options: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A question of SQuAD's as a row with the columns of the options."""
    if not isinstance(question, dict):
        raise DataError(f"{place}: expected an object, but got {shown(question)}", "see SQuAD's own files")
    answers = question.get("answers")
    if question.get("is_impossible") and answers:
        raise DataError(f"{place}: is_impossible is true, but there are answers", "remove one of the two")
    if not question.get("is_impossible") and answers is None:
        raise DataError(f"{place}: there is no list 'answers'", did_you_mean("answers", map(str, question)))
    values = (question.get("id"), question.get("question"), paragraph.get("context"), answers or [])
    row = {options[field]: value for field, value in zip(_FIELDS, values, strict=True) if value is not None}
    return row


def from_table(table: Table, options: Mapping[str, Any], located: bool) -> Questions:
    """Check a table's questions.

    Raises:
        DataError: a column is missing (with the nearest names), two rows have one identifier, a text is missing, or an
            answer is not where it should be; with the place.
    """
    answers = table.column(options["answers_column"])
    starts = table.columns.get(options["start_column"], [None] * len(table))
    items, searched = [], 0
    for index, (value, start) in enumerate(zip(answers, starts, strict=True)):
        question = text_of(table, index, options["question_column"])
        context = text_of(table, index, options["context_column"])
        place = table.where(index)
        found = [_located(text, at, context, place, located) for text, at in _answers(value, start, place)]
        searched += sum(guessed for _, _, guessed in found)
        texts, places = tuple(text for text, _, _ in found), tuple(at for _, at, _ in found)
        items.append(Question(question.strip(), context, texts, places, place))
    if searched:
        logger.info("%s: %d answers do not say where they start; the first such place is taken", table.path, searched)
    return Questions(items, table.path)


def _answers(value: Any, start: Any, place: str) -> list[tuple[Any, Any]]:
    """The texts and starts of a row, in whatever form they come."""
    if value is None or value == "" or value == []:
        return []
    if isinstance(value, str):
        return [(value, start)]
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        if isinstance(texts, str):
            return [(texts, starts)]
        return _paired(texts, starts, place)
    if isinstance(value, (list, tuple)) and all(isinstance(item, Mapping) for item in value):
        return [(item.get("text"), item.get("answer_start")) for item in value]
    return _paired(value, start, place)


def _paired(texts: Any, starts: Any, place: str) -> list[tuple[Any, Any]]:
    if not isinstance(texts, (list, tuple)):
        raise DataError(f"{place}: answers are texts, but this is {shown(texts)}", "choose another answers_column")
    starts = [None] * len(texts) if starts is None else starts
    if not isinstance(starts, (list, tuple)) or len(starts) != len(texts):
        raise DataError(f"{place}: {len(texts)} answers, but their starts are {shown(starts)}", "give each one start")
    return list(zip(texts, starts, strict=True))


def _located(text: Any, start: Any, context: str, place: str, located: bool) -> tuple[str, int | None, bool]:
    """An answer, where it starts, and whether that was looked up; checked against the context."""
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            f"{place}: an answer is a text, but this is {shown(text)}", "leave the list empty for no answer"
        )
    if isinstance(start, str) and start.strip().lstrip("-").isdecimal():
        start = int(start)
    if start is None or start == "":
        at = context.find(text)
        if at < 0 and located:
            raise DataError(
                f"{place}: the answer {shown(text)} does not occur in the context",
                "correct it, or have the answers written: formulation generative or text-to-text",
            )
        return text, (at if at >= 0 else None), located
    if not isinstance(start, int) or isinstance(start, bool):
        raise DataError(f"{place}: an answer starts at a character's number, but this is {shown(start)}")
    stands = context[start : start + len(text)] if start >= 0 else ""
    if stands != text:
        at = context.find(text)
        raise DataError(
            f"{place}: the answer {shown(text)} should start at character {start} of the context, where it has"
            f" {shown(stands)}",
            f"it starts at {at}" if at >= 0 else "it does not occur in the context at all",
        )
    return text, start, False
