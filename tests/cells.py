"""The results of the conformance matrix: docs/matrix.jsonl, one line a cell, with the digests of what it ran on.

Lines are added as cells finish, so that a run that was killed goes on where it was; the last line of a cell counts. At
the end the file is written anew, sorted, with each text once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from digests import ROOT, Digests

RESULTS = ROOT / "docs" / "matrix.jsonl"
ADVICE = "run: python docs/matrix.py"


@dataclass
class Cell:
    """A technique on one family: what the checks showed."""

    technique: str
    family: str
    passed: int = 0
    others: list[list[str]] = field(default_factory=list)
    """Of each result that is no pass: the check, the outcome, the model, the message."""
    error: str = ""
    """Why nothing could be checked at all: a plugin that does not load, a process that died."""
    seconds: float = 0.0
    ran_on: dict[str, str] = field(default_factory=dict)
    """Digests of the technique, the family, the kit and the core."""

    @property
    def place(self) -> tuple[str, str]:
        """Technique and family."""
        return self.technique, self.family

    def count(self, *outcomes: str) -> int:
        """How many results, no passes, are of these outcomes."""
        return sum(outcome in outcomes for _, outcome, _, _ in self.others)

    @property
    def state(self) -> str:
        """``pass``, ``not applicable`` or ``FAIL``."""
        if self.error or self.count("failed", "error"):
            return "FAIL"
        if not self.passed and any(model for _, _, model, _ in self.others):
            return "not applicable"
        return "pass" if self.passed else "FAIL"


@dataclass
class Matrix:
    """All cells that have run, by technique and family."""

    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path = RESULTS) -> Matrix:
        """What a file says; nothing where there is none. A line that a killed run did not finish is passed over."""
        matrix, texts = cls(), []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                row: dict[str, Any] = json.loads(line)
            except ValueError:
                continue
            if "texts" in row:
                texts = row["texts"]
                continue
            row["others"] = [[texts[one] if isinstance(one, int) else one for one in other] for other in row["others"]]
            cell = Cell(**row)
            matrix.cells[cell.place] = cell
        return matrix

    def add(self, cell: Cell, path: Path) -> None:
        """One more cell, at the end of the file too."""
        self.cells[cell.place] = cell
        cut = path.is_file() and not path.read_bytes().endswith(b"\n")
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * cut + json.dumps(asdict(cell)) + "\n")

    def write(self, path: Path) -> None:
        """The whole file."""
        texts: dict[str, int] = {}
        rows = []
        for _, cell in sorted(self.cells.items()):
            numbers = [[texts.setdefault(one, len(texts)) for one in other] for other in cell.others]
            rows.append({**asdict(cell), "others": numbers})
        partial = path.with_suffix(".part")
        lines = (json.dumps(row) for row in ({"texts": list(texts)}, *rows))
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        os.replace(partial, path)

    def keep(self, places: list[tuple[str, str]]) -> None:
        """Forget all cells but these: a technique or family may have gone."""
        self.cells = {place: self.cells[place] for place in places if place in self.cells}

    def applies(self, technique: str, family: str) -> bool:
        """Whether a technique exists on a family; true where that has not been tried."""
        cell = self.cells.get((technique, family))
        return cell is None or cell.state != "not applicable"

    def outdated(self, places: list[tuple[str, str]], digests: Digests) -> Iterator[tuple[tuple[str, str], list[str]]]:
        """Cells that ran on something else than what is there now, or never, or failed; and which of it."""
        for place in places:
            cell, now = self.cells.get(place), digests.cell(*place)
            if cell is None or cell.state == "FAIL":
                differs = ["new" if cell is None else "failed"]
            else:
                differs = [name for name in now if cell.ran_on.get(name) != now[name]]
            if differs:
                yield place, differs
