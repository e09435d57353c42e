"""Rows of JSON with the line of each, and what is wrong with text that is none. Needs no heavy library."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from refarch.errors import DataError

_BLANK = re.compile(r"[ \t\r\n]*")  # what JSON allows between its parts
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # how JSON writes each half of a character beyond U+FFFF


def parse_lines(name: str, text: str) -> tuple[list[Any], list[int]]:
    """The values of a text with one a line, and the line of each; empty lines are skipped.

    Args:
        name: of the file, for messages.
        text: its content.

    Raises:
        DataError: a line is not JSON.
    """
    rows: list[Any] = []
    lines: list[int] = []
    # Only \n ends a line: str.splitlines would also cut at characters that JSON strings may hold.
    for line, part in enumerate(text.split("\n"), start=1):
        if not part.strip():
            continue
        try:
            row = json.loads(part)
        except (ValueError, RecursionError) as error:
            raise not_json(name, line, error, "write one JSON object a line") from None
        rows.append(row)
        lines.append(line)
    refuse_halves(text, rows, (f"{name}, line {line}" for line in lines))
    return rows, lines


def parse_list(name: str, text: str) -> tuple[list[Any], list[int]]:
    """The items of a list, read one by one to know the line where each starts; arguments as of :func:`parse_lines`.

    Raises:
        DataError: it is not JSON, or no list.
    """
    decoder = json.JSONDecoder()
    rows: list[Any] = []
    lines: list[int] = []
    at, line = 0, 1

    def move(place: int) -> None:
        """Go there, and on to what follows the blanks there."""
        nonlocal at, line
        blank = _BLANK.match(text, place)
        assert blank is not None
        line, at = line + text.count("\n", at, blank.end()), blank.end()

    def expect(*marks: str) -> None:
        if not text.startswith(marks, at):
            hint = "write a list of objects, [{...}, {...}], or one object a line in a file that ends in .jsonl"
            raise DataError(f"{name}, line {line}: expected {' or '.join(marks)}", hint)

    move(0)
    expect("[")
    while text[at] != "]":
        move(at + 1)  # past the bracket or the comma
        if not rows and text.startswith("]", at):
            break
        try:
            row, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            there = error.lineno if isinstance(error, json.JSONDecodeError) else line
            raise not_json(name, there, error, "write a list of objects; this one may be truncated") from None
        rows.append(row)
        lines.append(line)
        move(end)
        expect(",", "]")
    move(at + 1)
    if at < len(text):
        raise DataError(f"{name}, line {line}: something follows the list", "write one list of objects")
    refuse_halves(text, rows, (f"{name}, line {line}" for line in lines))
    return rows, lines


def not_json(name: str, line: int, error: Exception, hint: str) -> DataError:
    """The error to raise for text that Python's ``json`` refuses.

    Args:
        name: of the file.
        line: where the mistake is.
        error: what ``json`` raised, which counts lines from where it began to read.
        hint: what to do.
    """
    what = str(error)
    if isinstance(error, json.JSONDecodeError):
        what = f"{error.msg.removesuffix(' at')} (column {error.colno})"
    return DataError(f"{name}, line {line}: not valid JSON: {what}", hint)


def refuse_halves(text: str, values: Iterable[Any], places: Iterable[str]) -> None:
    """Refuse half of a character beyond U+FFFF (a lone surrogate), which JSON can write and no tokenizer can read.

    Args:
        text: the JSON that the values were read from.
        values: of each row.
        places: of each row, for messages.

    Raises:
        DataError: with the row's place.
    """
    if not _HALF.search(text):
        return
    for value, place in zip(values, places, strict=True):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise DataError(
                f"{place}: {half} is half of a character, without its other half",
                "a text was cut within a character, or badly converted: remove it, or write the file again",
            ) from None
