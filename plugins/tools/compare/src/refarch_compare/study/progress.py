"""A study's progress on standard error: a line for each cell that ends, and a bar with the time left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bars, TaskID, TextColumn

from refarch import hookimpl


class Display:
    """Shows how a study goes. It is an observer of the runs in this process.

    Args:
        shown: False keeps silent.
        total: cells in all.
    """

    def __init__(self, shown: bool, total: int) -> None:
        self.console = Console(stderr=True, quiet=not shown, highlight=False, markup=False)
        self.bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            disable=not (shown and self.console.is_terminal),
        )
        self.cells = self.bars.add_task("cells", total=total, note="")
        self.steps: TaskID | None = None
        self.tick: Callable[[], None] = lambda: None

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, soft_wrap=True)

    def standing(self, done: int, note: str) -> None:
        """So many cells have ended; ``note`` tells the time left."""
        self.bars.update(self.cells, completed=done, note=note)

    def begin(self, what: str) -> None:
        """A cell or a trial begins."""
        self.end()
        self.steps = self.bars.add_task(what, total=None, note="")

    def end(self) -> None:
        """It has ended."""
        if self.steps is not None:
            self.bars.remove_task(self.steps)
            self.steps = None

    @hookimpl
    def refarch_step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Move the bar of the run."""
        if self.steps is not None:
            note = f"loss {metrics['loss']:.3f}" if "loss" in metrics else ""
            self.bars.update(self.steps, completed=step, total=total, note=note)
            self.tick()

    def __enter__(self) -> Display:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()


def short(path: Path) -> str:
    """A path as people like to read it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
