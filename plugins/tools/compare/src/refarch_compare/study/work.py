"""Work on a study: take what nobody works on, run it, note what became of it, until nothing is left.

Any number of processes may do so at once. Each holds a lock on the cell or the search that it works on; a process that
dies, however it dies, loses its locks, and the next one takes up what it left where it left it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from refarch import PipelineSpec, Pool, Registry, RunRecord, run as run_pipeline
from refarch.errors import BusyError, SaveError, UsageError
from refarch.files import write_text
from refarch_compare.study.clock import Clock, key_of
from refarch_compare.study.estimate import Key, duration
from refarch_compare.study.folder import Failure, StudyFolder
from refarch_compare.study.plan import Cell, Plan
from refarch_compare.study.progress import Display
from refarch_compare.study.search import Found, Judge, Trial, forget_failures, search as find

_POLL = 1.0
"""Seconds between looks at what other processes do, when nothing is left to take."""


@dataclass(frozen=True)
class Outcome:
    """How a study ended."""

    finished: int
    failed: int
    resumed: int
    """Of the finished ones, those that were there before."""


class Worker:
    """One process's work on a study.

    Args:
        plan: the cells.
        folder: the study's.
        registry: this worker's own: it observes the runs through it.
        display: where progress is shown.
    """

    def __init__(self, plan: Plan, folder: StudyFolder, registry: Registry, display: Display) -> None:
        self.plan, self.folder, self.registry, self.display = plan, folder, registry, display
        self.pool = Pool()
        self.known: set[str] = set()
        self.clock = Clock(plan, folder)
        display.tick = self._tick
        registry.manager.register(display)

    def work(self) -> Outcome:
        """Until every cell has ended, here or in another process.

        Raises:
            SaveError: the disk is full or not writable; the study can be resumed.
        """
        before = {cell.id for cell in self.plan.cells if self.folder.finished(cell)}
        with _settled():
            while rest := self._rest():
                taken = [self._take(cell) for cell in rest]
                if not any(taken):
                    time.sleep(_POLL)
        finished = [cell for cell in self.plan.cells if self.folder.finished(cell)]
        return Outcome(len(finished), len(self.plan.cells) - len(finished), len(before))

    def _rest(self, searching: bool = False) -> list[Cell]:
        """The cells to come; the display is told."""
        rest = [cell for cell in self.plan.cells if self._open(cell)]
        self.clock.look(rest, searching)
        self._tick()
        return rest

    def _open(self, cell: Cell) -> bool:
        """Whether a cell is still to be done; what it took counts for the estimate once it is."""
        if cell.id in self.known:
            return False
        record = self.folder.record(cell)
        if record is not None:
            times = record.times
            self.clock.cells.add(key_of(cell), times.load + times.train + times.evaluate)
        elif self.folder.failure(cell) is None:
            return True
        self.known.add(cell.id)
        return False

    def _take(self, cell: Cell) -> bool:
        """Do a cell, with its group's search before it; False if another process is at it."""
        if cell.id in self.known:
            return True
        try:
            found = self._search(cell)
            with self.folder.claim(cell.id):
                if self._open(cell):
                    self._run(cell, found)
        except BusyError:
            return False
        return True

    def _run(self, cell: Cell, found: Found | Failure | None) -> None:
        if isinstance(found, Failure):
            self._failed(cell, found)
            return
        pipeline = cell.pipeline
        if found is not None:
            training = {**pipeline.training.model_dump(), "learning_rate": found.learning_rate}
            pipeline = PipelineSpec.parse({**pipeline.model_dump(), "training": training}, cell.id)
        self.display.begin(f"{cell.technique} · {cell.task} · {cell.backbone} · seed {cell.seed}")
        began = time.perf_counter()
        try:
            record = self._piped(pipeline, self.folder.run(cell), None, key_of(cell))
        except (SaveError, BusyError):
            raise
        except Exception as error:  # a broken plugin must not cost the other cells
            self._failed(cell, Failure.of(cell.id, error))
            return
        finally:
            self.display.end()
        took = time.perf_counter() - began
        if not record.resumed:
            self.clock.cells.add(key_of(cell), took)
            self.known.add(cell.id)
        self._ended(f"finished {cell.id}: {record.metric} {record.score:.4f} in {duration(took)}")

    def _failed(self, cell: Cell, failure: Failure) -> None:
        self.folder.fail(cell, failure)
        self._ended(f"failed   {cell.id}: {(failure.message.splitlines() or [''])[0]}")

    def _ended(self, text: str) -> None:
        """Say what a cell came to, and how far the study is."""
        done = len(self.plan.cells) - len(self._rest())
        note = self.clock.note()
        self.display.say(f"{text} [{done} of {len(self.plan.cells)} cells{'; ' if note else ''}{note}]")

    def _piped(self, pipeline: PipelineSpec, path: Path, judge: Judge | None, key: Key) -> RunRecord:
        """Run a pipeline in its folder on the shared backbone, with a judge watching."""
        self.clock.start(key, trial=pipeline.score_on == "validation")
        if judge is not None:
            self.registry.manager.register(judge)
        try:
            return run_pipeline(pipeline, path, registry=self.registry, pool=self.pool)[0]
        finally:
            self.clock.stop()
            if judge is not None:
                self.registry.manager.unregister(judge)

    def _tick(self) -> None:
        """Move the bar of the cells."""
        self.display.standing(len(self.plan.cells) - len(self.clock.rest), self.clock.note())

    # the search ----------------------------------------------------------------------------------------------------

    def _search(self, cell: Cell) -> Found | Failure | None:
        """What the search for a cell's group found, after making it or going on with it; None where there is none."""
        spec = self.plan.study.search
        if spec is None:
            return None
        path = self.folder.search(cell.group)
        failed = path / "failure.json"
        if failed.is_file():
            return Failure.from_json(failed.read_bytes())
        task = self.registry.task(cell.pipeline.task.name)

        def tell(trial: Trial) -> None:
            self.clock.trials.add(key_of(cell), trial.seconds)
            self._rest(searching=True)
            value = f"{task.metric} {trial.value:.4f}" if trial.value is not None else trial.reason
            self.display.say(
                f"trial    {cell.group} {trial.number + 1}/{spec.trials}: learning rate {trial.learning_rate:g}"
                f" {trial.state}, {value}"
            )

        def run(pipeline: PipelineSpec, folder: Path, judge: Judge | None) -> RunRecord:
            self.display.begin(f"search {cell.group}")
            try:
                return self._piped(pipeline, folder, judge, key_of(cell))
            finally:
                self.display.end()

        direction = {"metric": task.metric, "greater_is_better": task.greater_is_better}
        if (path / "result.json").is_file():
            return find(spec, cell.pipeline, path, run=run, **direction)  # type: ignore[arg-type]
        with self.folder.claim(f"search-{cell.group}"):
            try:
                return find(spec, cell.pipeline, path, run=run, tell=tell, **direction)  # type: ignore[arg-type]
            except (SaveError, BusyError):
                raise
            except Exception as error:
                failure = Failure.of(cell.group, error)
                failure = failure.model_copy(update={"message": f"its search failed: {failure.message}"})
                write_text(failed, failure.to_json())
                return failure


@contextlib.contextmanager
def _settled() -> Iterator[None]:
    """Let the garbage collector pass over what is there already: libraries, a million objects that stay.

    Trainer collects garbage at the beginning of every run, which takes longer than a short run's training otherwise.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def forgive(plan: Plan, folder: StudyFolder) -> None:
    """Forget failures, so that these cells and their searches are tried again."""
    for group, cells in plan.groups().items():
        failed = folder.search(group) / "failure.json"
        if failed.is_file():
            forget_failures(folder.search(group))
            failed.unlink(missing_ok=True)
        for cell in cells:
            (folder.run(cell) / "failure.json").unlink(missing_ok=True)


def refuse_launcher() -> None:
    """A study is shared by processes that are started one by one, not by a launcher's.

    Raises:
        UsageError: a launcher has started several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "a study does not run under a launcher of distributed processes",
            "start the same command several times instead; each process takes cells that no other one works on",
        )
