"""How long the rest of a study will take: what ends in this process and in others, and what is still to come."""

from __future__ import annotations

import time

from refarch_compare.study.estimate import Key, Timed
from refarch_compare.study.folder import StudyFolder
from refarch_compare.study.plan import Cell, Plan


class Clock:
    """How long the rest of a study will take.

    Args:
        plan: the cells.
        folder: the study's.
    """

    def __init__(self, plan: Plan, folder: StudyFolder) -> None:
        self.plan, self.folder = plan, folder
        self.cells, self.trials = Timed(), Timed()
        self.rest: list[Cell] = []
        self.to_try: list[Key] = []
        self.workers = 1
        self.running: Key | None = None
        self.trying = False
        self.began = 0.0

    def look(self, rest: list[Cell], searching: bool) -> None:
        """Take note of what is to come, and of how many processes work on it.

        Args:
            rest: the cells to come.
            searching: whether this process holds a search among what is claimed.
        """
        self.rest, self.to_try = rest, self._trials(rest)
        searches = {f"search-{cell.group}" for cell in rest} if self.to_try else set()
        claimed = sum(self.folder.claimed(name) for name in (*searches, *(cell.id for cell in rest)))
        self.workers = max(1, claimed + (not searching))

    def start(self, key: Key, trial: bool) -> None:
        """A cell or a trial begins in this process."""
        self.running, self.trying, self.began = key, trial, time.perf_counter()

    def stop(self) -> None:
        """It has ended."""
        self.running = None

    def note(self) -> str:
        """The time left in words; nothing at the end."""
        if not self.rest:
            return ""
        spent = time.perf_counter() - self.began
        in_cell, in_trial = (self.running if self.trying == trial else None for trial in (False, True))
        cells = self.cells.left(map(key_of, self.rest), self.workers, in_cell, spent)
        if not self.to_try:
            return str(cells) if cells else "time left: unknown until a cell has ended"
        trials = self.trials.left(self.to_try, self.workers, in_trial, spent)
        if cells is None or trials is None:
            return f"{len(self.to_try)} trials to come; time left: unknown until a cell and a trial have ended"
        return f"{cells + trials}, {len(self.to_try)} trials among it"

    def _trials(self, rest: list[Cell]) -> list[Key]:
        spec = self.plan.study.search
        groups = {cell.group: cell for cell in rest} if spec else {}
        keys: list[Key] = []
        for group, cell in groups.items():
            path = self.folder.search(group)
            if spec and not (path / "result.json").is_file():
                keys += [key_of(cell)] * (spec.trials - sum(1 for _ in path.glob("trial-*/trial.json")))
        return keys


def key_of(cell: Cell) -> Key:
    """What a cell's time is kept under."""
    return cell.technique, cell.task, cell.backbone
