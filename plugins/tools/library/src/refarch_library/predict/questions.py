"""Which texts are asked of which entries."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from refarch.errors import DataError, UsageError, did_you_mean
from refarch.tasks import read_text

if TYPE_CHECKING:
    from refarch.tasks import Question

    Asked = tuple[str | None, Question]
    """A text, and the entry that it is for; None where it is for all."""


def requests(names: Sequence[str], questions: Sequence[Question], rows: Sequence[Asked]) -> list[tuple[str, Question]]:
    """Each text with each entry that it is for.

    Raises:
        UsageError: there is nothing to ask, or a row names an entry that is not among ``names``.
    """
    found: list[tuple[str, Question]] = []
    for name, question in [*((None, question) for question in questions), *rows]:
        if name is not None and name not in names:
            raise UsageError(f"a row is for {name!r}, which no --adaptation names", did_you_mean(name, names))
        found += [(each, question) for each in ([name] if name is not None else dict.fromkeys(names))]
    if not found:
        raise UsageError("there is no text to ask", "give --text, --pair or --file")
    return found


def read_file(file: str) -> list[Asked]:
    """The texts of a file, one a line; or rows of a ``.jsonl`` file.

    Args:
        file: its name; ``-`` for standard input.

    Raises:
        DataError: it cannot be read, or a row is none.
    """
    text = sys.stdin.read() if file == "-" else read_text(file)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not file.endswith(".jsonl"):
        return [(None, line.strip()) for _, line in lines]
    return [_row(f"{file}, line {number}", line) for number, line in lines]


def _row(where: str, line: str) -> Asked:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}", "write one JSON object a line") from None
    wrong = not isinstance(row, dict) or row.keys() - {"text", "pair", "adaptation"}
    if wrong or not all(isinstance(value, str) for value in row.values()) or "text" not in row:
        raise DataError(f"{where}: not a row", 'write {"text": "...", "pair": "...", "adaptation": "..."}')
    return row.get("adaptation"), (row["text"], row["pair"]) if "pair" in row else row["text"]
