"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]


def library(command: Command) -> Command:
    """``--library``."""
    return click.option(
        "--library",
        "path",
        type=click.Path(file_okay=False, path_type=Path),
        help="The library's folder; REFARCH_LIBRARY, or ./library, when left out.",
    )(command)


def as_json(command: Command) -> Command:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def replace(command: Command) -> Command:
    """``--replace``."""
    return click.option("--replace", is_flag=True, help="Take the place of an entry that is there.")(command)
