"""A run's progress on screen (standard error), or nowhere."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as Bars,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class _Notes(logging.Handler):
    """Shows what refarch and its plugins log, and others' warnings."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or record.name.startswith("refarch"):
            self.console.print(record.getMessage(), highlight=False, markup=False, soft_wrap=True)


class Progress:
    """Phases as lines and training as a bar with the time left. Where nobody has set up logging, also what is logged on
    the way: how many examples were cut to fit, and the like.

    Args:
        shown: False keeps silent.
    """

    def __init__(self, shown: bool) -> None:
        self.console = Console(stderr=True, quiet=not shown)
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not shown,
        )
        self.task: TaskID | None = None
        self.notes = _Notes(self.console) if shown and not logging.root.handlers else None
        self.level = logging.root.level

    def phase(self, text: str) -> None:
        """Say what begins now."""
        self.console.print(text, highlight=False)

    def step(self, step: int, total: int) -> None:
        """Training has come to ``step`` of ``total``."""
        if self.task is None:
            self.task = self.bars.add_task("training", total=total, values="")
            self.bars.start()
        self.bars.update(self.task, completed=step, total=total)

    def show(self, values: Mapping[str, float]) -> None:
        """Show the loss beside the bar."""
        if self.task is not None:
            self.bars.update(self.task, values=f"loss {values['loss']:.3f}")

    def stop(self) -> None:
        """Leave the bar as it is."""
        self.bars.stop()

    def __enter__(self) -> Progress:
        if self.notes is not None:
            logging.root.addHandler(self.notes)
            logging.root.setLevel(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self.notes is not None:
            logging.root.removeHandler(self.notes)
            logging.root.setLevel(self.level)
