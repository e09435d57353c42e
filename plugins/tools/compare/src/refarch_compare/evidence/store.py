"""All evidence below any number of folders.

Records are files and nothing else is the truth: there is no index that could be stale. Reading five thousand of them
takes two to three seconds of CPU, so every command reads them anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from refarch import Registry, default_registry
from refarch.errors import DataError, RefarchError
from refarch_compare.evidence.reading import RECORD, SUFFIX, Reader
from refarch_compare.evidence.row import Row


@dataclass(frozen=True)
class Problem:
    """A file that was skipped, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Evidence:
    """Rows, and the files that could not be read."""

    rows: tuple[Row, ...]
    problems: tuple[Problem, ...] = ()

    def note(self, most: int = 5) -> str:
        """The skipped files, counted and named, or an empty string."""
        if not self.problems:
            return ""
        count = len(self.problems)
        lines = [f"skipped {count} {'record' if count == 1 else 'records'} that cannot be read:"]
        lines += [f"  {item.path}: {item.reason}" for item in self.problems[:most]]
        if count > most:
            lines.append(f"  and {count - most} more (--json lists all)")
        return "\n".join(lines)


def load(roots: Sequence[Path | str], registry: Registry | None = None) -> Evidence:
    """Read every record below ``roots``: those of runs and studies, and imported ones.

    Args:
        roots: folders, at any depth above the records; or single records.
        registry: where techniques are looked up; the installed plugins when left out.

    Raises:
        DataError: a folder does not exist, or there is no readable record below any of them.
    """
    reader = Reader(registry or default_registry())
    rows: list[Row] = []
    problems: list[Problem] = []
    for path in records(roots):
        try:
            rows.append(reader.read(path))
        except RefarchError as error:
            problems.append(Problem(str(path), _without_path(error.message, path)))
    evidence = Evidence(tuple(rows), tuple(problems))
    if not rows:
        where = " or ".join(map(str, roots))
        if problems:
            raise DataError(f"there is no readable record below {where}; {evidence.note()}")
        raise DataError(
            f"there is no record below {where}",
            f"a finished run leaves {RECORD} in its folder (refarch run ... --out FOLDER); refarch compare import"
            " brings in results of others",
        )
    return evidence


def records(roots: Iterable[Path | str]) -> list[Path]:
    """The record files below ``roots``, each once, in a stable order.

    Raises:
        DataError: a root does not exist.
    """
    found: dict[Path, Path] = {}
    for root in map(Path, roots):
        if not root.exists():
            raise DataError(f"there is no folder {root}", "give a folder that holds runs, a study or imported records")
        real = root.resolve()
        for path in [root] if root.is_file() else _below(root):
            found.setdefault(real / path.relative_to(root), path)
    return list(found.values())


def _below(root: Path) -> Iterator[Path]:
    """Depth first, in order of names. What lies inside a run's folder (checkpoints, adaptations) is no run."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if RECORD in files:
            folders.clear()
            yield Path(folder, RECORD)
        for name in sorted(files):
            if name.endswith(SUFFIX) and not name.startswith("."):
                yield Path(folder, name)


def _without_path(message: str, path: Path) -> str:
    text = message.replace(f"{path} ", "", 1).replace(f"{path}: ", "", 1)
    return " ".join(text.split())
