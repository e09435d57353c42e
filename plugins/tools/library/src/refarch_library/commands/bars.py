"""Progress on standard error, where a person watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def copying(what: str) -> Iterator[Callable[[str, int], None]]:
    """Counts copied bytes: call it with a file's name and the bytes that were just copied."""
    console = Console(stderr=True)
    with Progress(TextColumn("{task.description}"), DownloadColumn(), console=console, transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda name, size: bars.update(task, advance=size, description=name)


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """Counts finished parts: call it with what comes next."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=total + 1)
        yield lambda text: bars.update(task, advance=1, description=text)
