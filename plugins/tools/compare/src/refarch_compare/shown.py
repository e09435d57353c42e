"""How the commands show tables: for people with rich, for machines as JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Print a table for people; numbers stand on the right, and no line ends in spaces."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    body = [list(row) for row in rows]
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 160
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for index, name in enumerate(head):
        numbers = bool(body) and all(isinstance(row[index], (int, float, type(None))) for row in body)
        drawn.add_column(name, overflow="fold", justify="right" if numbers else "left")
    for row in body:
        drawn.add_row(*map(text, row))
    with console.capture() as captured:
        console.print(drawn)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


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
