"""What commands print: tables for people, JSON and CSV for machines. Needs no torch."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    title: str | None = None,
    *,
    cell: Callable[[Any], str] | None = None,
    right: Sequence[str] = (),
    width: int = 160,
) -> None:
    """Print a table for people.

    Args:
        head: names of the columns.
        rows: their values; columns of numbers stand on the right.
        title: stands above it.
        cell: makes text of a value; :func:`text` when left out, and :func:`printable` for what others have written.
        right: further columns that stand on the right.
        width: where no person watches.
    """
    click.echo(rendered([grid(head, rows, title, cell=cell or text, right=right)], width))


def grid(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    title: str | None = None,
    *,
    cell: Callable[[Any], str],
    right: Sequence[str] = (),
) -> Table:
    """A table as all commands draw theirs, to be printed among other things; see :func:`table`."""
    from rich import box
    from rich.table import Table

    body = [list(row) for row in rows]
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for index, name in enumerate(head):
        numbers = bool(body) and all(isinstance(row[index], (int, float, type(None))) for row in body)
        drawn.add_column(name, overflow="fold", justify="right" if numbers or name in right else "left")
    for row in body:
        drawn.add_row(*map(cell, row))
    return drawn


def rendered(blocks: Iterable[RenderableType], width: int) -> str:
    """Tables and lines as text in which no line ends in spaces.

    Args:
        blocks: what :mod:`rich` prints.
        width: where no person watches; else it is the terminal's.
    """
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = width
    with console.capture() as captured:
        for block in blocks:
            console.print(block)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def text(value: Any) -> str:
    """A value as a person reads it: four significant digits, thousands apart, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) >= 1000
        return f"{int(value):,}" if whole else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value)


def printable(text: str) -> str:
    """Text without what would steer a terminal, for what others have written."""
    return "".join(c if c.isprintable() else "?" for c in text)


def as_json(data: Any) -> str:
    """JSON text of plain data; what is not a number there (NaN, infinity) is null, as JSON has no such values."""
    return json.dumps(_plain(data), indent=2, ensure_ascii=False, default=str)


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_asdict"):
        return _plain(data._asdict())
    if isinstance(data, (list, tuple, set, frozenset)):
        return [_plain(item) for item in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def as_csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV text with a header."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return file.getvalue()
