"""A run's folder: what is in it, who may write to it, and what of it survives a kill.

::

    pipeline.json       the resolved spec
    environment.json    versions and machine
    metrics.jsonl       a line for each logged step and evaluation
    checkpoints/        to resume from; a checkpoint counts once it holds the file `complete`
    adaptations/NAME/   the trained modules
    record.json         written last: the run is finished
"""

from __future__ import annotations

import functools
import json
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from refarch.architecture import PipelineSpec, RunRecord
from refarch.errors import UsageError
from refarch.files import locked, read_json, write_text

COMPLETE = "complete"


class RunFolder:
    """The files of one run.

    Args:
        path: made if need be.
        writes: False in all but the first of several processes of a distributed run; these only read.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self.spec = path / "pipeline.json"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.record = path / "record.json"
        self.progress = path / "progress.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder against a second process; the system lets go of it when the process dies.

        Raises:
            BusyError: another process runs in this folder.
        """
        if not self.writes:
            yield
            return
        hint = "wait for it, or choose another folder with --out"
        with locked(self.path / ".lock", f"runs in {self.path}", hint):
            yield

    def check(self, pipeline: PipelineSpec) -> None:
        """Refuse a folder that is another pipeline's.

        Raises:
            UsageError: it belongs to a run of another pipeline.
        """
        if not self.writes or not self.spec.is_file():
            return
        there = PipelineSpec.parse(read_json(self.spec), str(self.spec))
        changed = differences(there.model_dump(mode="json"), pipeline.model_dump(mode="json"))  # files have no tuples
        if changed:
            raise UsageError(
                f"{self.path} holds a run of another pipeline; it differs in {', '.join(changed[:5])}",
                "choose another folder, or repeat the same pipeline to resume it",
            )

    def claim(self, pipeline: PipelineSpec) -> None:
        """Note the pipeline, or :meth:`check` that the folder is this pipeline's.

        Before, nothing is written: a run whose data or model cannot be loaded leaves the folder to a corrected one.
        """
        self.check(pipeline)
        if self.writes and not self.spec.is_file():
            write_text(self.path / "environment.json", json.dumps(environment(), indent=2))
            write_text(self.spec, pipeline.to_json())

    def finished(self) -> RunRecord | None:
        """The record, if the run is finished."""
        return RunRecord.parse(read_json(self.record), str(self.record)) if self.record.is_file() else None

    def last_checkpoint(self) -> Path | None:
        """The last whole checkpoint; those that a kill cut short are removed."""
        whole = []
        for path in self.checkpoints.glob("checkpoint-*"):
            if (path / COMPLETE).is_file():
                whole.append((int(path.name.rpartition("-")[2]), path))
            elif self.writes:
                shutil.rmtree(path, ignore_errors=True)
        return max(whole)[1] if whole else None

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line of metrics."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(line)) + "\n")

    def rewind(self, step: int) -> float:
        """Drop the metrics that came after ``step``: they will come again.

        Returns:
            The seconds of training that led to ``step``, as the metrics before it tell.
        """
        if not self.writes or not self.metrics.is_file():
            return 0.0
        kept: list[str] = []
        seconds = 0.0
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                values = json.loads(line)
            except ValueError:  # the last line of a killed process
                continue
            at = values.get("step", 0)
            if at <= step:
                kept.append(line)
                seconds = values.get("seconds", 0.0) * step / at if at else 0.0
        write_text(self.metrics, "".join(line + "\n" for line in kept))
        return seconds

    def spent(self) -> dict[str, float]:
        """Seconds spent in each phase by earlier attempts, and how many there were."""
        return dict(read_json(self.progress)) if self.progress.is_file() else {}

    def note(self, spent: Mapping[str, float]) -> None:
        """Keep what :meth:`spent` returns, once the folder is claimed."""
        if self.writes and self.spec.is_file():
            write_text(self.progress, json.dumps(dict(spent)))


def new_folder(root: Path, pipeline: PipelineSpec) -> Path:
    """A folder below ``root`` whose name says what runs in it and when it began."""
    names = [pipeline.task.name, Path(pipeline.backbone.name).name, *(t.label or t.name for t in pipeline.techniques)]
    stem = "-".join(names)[:80] + f"-seed{pipeline.seed}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    path, number = root / stem, 2
    while path.exists():
        path, number = root / f"{stem}-{number}", number + 1
    return path


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The dotted paths at which two nested values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{path}.{k}" if path else k)]
    return [] if old == new else [f"{path} ({old!r} there, {new!r} here)"]


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    """Read once in a process: it takes longer than a short run's training."""
    names = ["refarch", "torch", "transformers", "accelerate", "tokenizers", "safetensors", "numpy", "datasets"]
    found = {"python": platform.python_version()}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"] or ""
        if name in names or name.startswith("refarch-"):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def environment() -> dict[str, Any]:
    """What the run ran in."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "python": sys.version,
    }
