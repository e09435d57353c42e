"""How the commands show what they found."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Print a table; the columns named in ``right`` are numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 160
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in head:
        drawn.add_column(name, overflow="fold", justify="right" if name in right else "left")
    for row in rows:
        drawn.add_row(*map(printable, row))
    with console.capture() as captured:
        console.print(drawn)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def printable(text: str) -> str:
    """Text without what would steer a terminal: entries come from others."""
    return "".join(c if c.isprintable() else "?" for c in text)


def as_json(data: Any) -> str:
    """JSON text of plain data, with null for what is no number there."""
    return json.dumps(_plain(data), indent=2, ensure_ascii=False, default=str)


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(item) for item in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
