"""What is given and what is to be written, read from tables: texts, or triples and records written out as texts.

Triples are written as ``subject : relation : object`` with ``|`` between them, and records alike, as in prefix-tuning's
and LoRA's experiments (Li and Liang 2021, arXiv 2101.00190).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from refarch.errors import DataError
from refarch.tasks import Items, Table, read_source, shown

logger = logging.getLogger(__name__)
PARTS = 3
"""Of a triple."""
WITHIN, BETWEEN = " : ", " | "


class Example(NamedTuple):
    """One source with its references."""

    source: str
    references: tuple[str, ...]
    place: str
    """Of its first row, for messages."""


Examples = Items[Example]
"""One split."""


def read_examples(options: Mapping[str, Any]) -> dict[str, Examples]:
    """Read all splits that the options name, and check them.

    Raises:
        UsageError: neither ``train`` nor ``dataset`` is set.
        DataError: a file or data set is missing or malformed; names the file and the line.
    """
    source = read_source(options, "text-generation")
    return {split: from_table(table, options) for split, table in source.tables.items()}


def from_table(table: Table, options: Mapping[str, Any]) -> Examples:
    """Check a table and put the references of each source together.

    Raises:
        DataError: a column is missing (with the nearest names); a row has no source or no target; with its line.
    """
    name, target = options["source_column"], options["target_column"]
    found: dict[str, tuple[list[str], str]] = {}
    skipped = 0
    for index, (given, wanted) in enumerate(zip(table.column(name), table.column(target), strict=True)):
        place = table.where(index)
        text, references = written_out(given, name, place), _references(wanted, target, place)
        lacking = [column for column, there in ((name, text), (target, references)) if not there]
        if lacking and not options["skip_empty"]:
            raise DataError(
                f"{place}: no text in column {lacking[0]!r}",
                "fill it in, remove the row, or leave such rows out with skip_empty=true",
            )
        if lacking:
            skipped += 1
            continue
        found.setdefault(text, ([], place))[0].extend(references)
    if skipped:
        logger.info("%s: %d of %d rows lack a source or a target and were left out", table.path, skipped, len(table))
    if not found:
        raise DataError(f"{table.path} has no row with a source and a target", "name another file, split or column")
    items = [Example(text, tuple(references), place) for text, (references, place) in found.items()]
    return Examples(items, table.path)


def _references(value: Any, column: str, place: str) -> list[str]:
    """A row's targets: one text, or a list of them; blank ones are none."""
    several = value if isinstance(value, (list, tuple)) else [value]
    for item in several:
        if item is not None and not isinstance(item, str):
            raise DataError(
                f"{place}: column {column!r} should hold a text or a list of texts, but has {shown(value)}",
                "choose another target_column",
            )
    return [item for item in several if item is not None and item.strip()]


def written_out(value: Any, column: str, place: str) -> str:
    """A source as one text; empty where there is none.

    Args:
        value: a text; triples, as lists of three or as texts with two ``" | "``; or a record, names with values.
        column: its name, for messages.
        place: its row, for messages.

    Raises:
        DataError: it is none of these.
    """
    try:
        text = value if isinstance(value, str) else "" if value is None else _linear(value, inside=False)
    except TypeError:
        raise DataError(
            f"{place}: column {column!r} should hold a text, triples or a record, but has {shown(value)}",
            "choose another source_column",
        ) from None
    return text if text.strip() else ""


def _linear(value: Any, inside: bool = True) -> str:
    """Triples and records as text.

    Raises:
        TypeError: there is something else in them.
    """
    if isinstance(value, str):
        return WITHIN.join(_split(value))
    if isinstance(value, Mapping):
        pairs = {name: _linear(item) for name, item in value.items() if item is not None}
        return BETWEEN.join(f"{name}{WITHIN}{item}" for name, item in pairs.items())
    if isinstance(value, (list, tuple)):
        # inside a list, three plain items are one triple; unless they are texts that hold a whole triple each
        plain = len(value) == PARTS and not any(isinstance(item, (Mapping, list, tuple)) for item in value)
        whole = all(isinstance(item, str) and len(_split(item)) == PARTS for item in value)
        return (WITHIN if inside and plain and not whole else BETWEEN).join(map(_linear, value))
    if inside and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise TypeError(value)


def _split(text: str) -> list[str]:
    """The parts of a triple that is one text, as WebNLG has them; any other text as it is."""
    parts = text.split(BETWEEN)
    return parts if len(parts) == PARTS else [text]
