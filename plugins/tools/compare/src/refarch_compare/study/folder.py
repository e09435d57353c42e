"""A study's folder: what is in it, and who does what when several processes work on it.

::

    study.json            the spec, all entries labelled
    plan.json             the cells, with what was decided about each
    runs/CELL/            one ordinary run folder a cell; failure.json there if it failed
    search/GROUP/         the search for a group's learning rate: trial-000/ ..., and result.json at the end
    claims/               locks; the system lets go of a process's locks when it dies, whatever kills it
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from refarch import RunRecord
from refarch.architecture import Spec
from refarch.errors import BusyError, CheckpointError, RefarchError, UsageError
from refarch.files import locked, read_json, write_text
from refarch_compare.metrics import METRICS, lines
from refarch_compare.study.plan import Cell, Plan
from refarch_compare.study.spec import StudySpec, differences_allowed

_PATIENCE = 600
"""How many tenths of a second a process waits for another one that is beginning the same study."""
Status = Literal["finished", "failed", "running", "pending"]


class Failure(Spec):
    """Why a cell or a search has no result."""

    what: str
    """The cell or the group."""
    error: str
    """The error's type."""
    message: str
    hint: str | None = None
    traceback: str = ""
    """Of an error that refarch did not raise on purpose."""
    when: str

    @classmethod
    def of(cls, what: str, error: Exception) -> Failure:
        """What an exception says."""
        ours = isinstance(error, RefarchError)
        return cls(
            what=what,
            error=type(error).__name__,
            message=error.message if isinstance(error, RefarchError) else str(error) or type(error).__name__,
            hint=error.hint if isinstance(error, RefarchError) else None,
            traceback="" if ours else "".join(traceback.format_exception(error)),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
        )


class StudyFolder:
    """The files of one study.

    Args:
        path: made if need be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec, self.plan = path / "study.json", path / "plan.json"

    def begin(self, plan: Plan) -> None:
        """Note the study, or check that the folder is this study's; entries and seeds may have been added.

        Raises:
            UsageError: the folder holds another study, or one whose cells come out differently now.
        """
        with self._turn():
            if self.spec.is_file():
                self._check(plan)
            elif (self.path / "record.json").exists() or (self.path / "pipeline.json").exists():
                raise UsageError(f"{self.path} holds a run, not a study", "choose another folder with --out")
            write_text(self.plan, plan.to_json())
            write_text(self.spec, plan.study.to_json())

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no other process is beginning the study; that takes a moment."""
        with contextlib.ExitStack() as stack:
            for attempt in range(_PATIENCE, -1, -1):
                try:
                    stack.enter_context(locked(self.path / "claims" / "plan.lock", f"is beginning {self.path}"))
                    break
                except BusyError:
                    if not attempt:
                        raise
                    time.sleep(0.1)
            yield

    def _check(self, plan: Plan) -> None:
        there = StudySpec.parse(read_json(self.spec), str(self.spec))
        changed = differences_allowed(there, plan.study)
        if changed:
            raise UsageError(
                f"{self.path} holds another study; it differs in {', '.join(changed[:5])}",
                "choose another folder with --out; to a study that has begun, entries and seeds can be added",
            )
        if not self.plan.is_file():
            return
        now = {cell.id: cell for cell in plan.cells}
        for cell in self.planned().cells:
            if cell.id in now and now[cell.id].model_dump() != cell.model_dump():
                raise UsageError(
                    f"{self.path}: the cell {cell.id} comes out differently now: a plugin or a backbone has changed",
                    "choose another folder with --out",
                )

    def planned(self) -> Plan:
        """The plan that the study began with.

        Raises:
            RefarchError: there is none, or it cannot be read.
        """
        return Plan.parse(read_json(self.plan, limit=256 * 2**20), str(self.plan))

    def run(self, cell: Cell) -> Path:
        """A cell's run folder."""
        return self.path / "runs" / cell.id

    def search(self, group: str) -> Path:
        """A group's search."""
        return self.path / "search" / group

    def claim(self, name: str) -> AbstractContextManager[None]:
        """Work on a cell or a search.

        Raises:
            BusyError: another process does.
        """
        return locked(self.path / "claims" / f"{name}.lock", f"works on {name}")

    def claimed(self, name: str) -> bool:
        """Whether some process works on a cell or a search now."""
        if not (self.path / "claims" / f"{name}.lock").exists():
            return False
        try:
            with self.claim(name):
                return False
        except BusyError:
            return True

    # what became of a cell -----------------------------------------------------------------------------------------

    def record(self, cell: Cell) -> RunRecord | None:
        """A finished cell's record.

        Raises:
            CheckpointError: it cannot be read.
        """
        path = self.run(cell) / "record.json"
        try:
            return RunRecord.parse(read_json(path), str(path)) if path.is_file() else None
        except RefarchError as error:
            raise CheckpointError(
                error.message, f"remove the folder {path.parent}: the cell is then run again"
            ) from None

    def finished(self, cell: Cell) -> bool:
        """Whether its record is there."""
        return (self.run(cell) / "record.json").is_file()

    def failure(self, cell: Cell) -> Failure | None:
        """Why it failed, if it did."""
        path = self.run(cell) / "failure.json"
        return Failure.parse(read_json(path), str(path)) if path.is_file() else None

    def fail(self, cell: Cell, failure: Failure) -> None:
        """Note that it failed."""
        write_text(self.run(cell) / "failure.json", failure.to_json())

    def status(self, cell: Cell) -> Status:
        """How a cell stands."""
        if self.finished(cell):
            return "finished"
        if (self.run(cell) / "failure.json").is_file():
            return "failed"
        return "running" if self.claimed(cell.id) else "pending"


def metrics(run: Path, split: str) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics for one split."""
    return (line for line in lines(run / METRICS) if line.get("split") == split)
