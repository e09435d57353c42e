"""What is written down of a run: the seconds of each of its phases, and the record of its result."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from refarch.architecture import RunRecord, Times
from refarch.errors import RunError
from refarch.pipeline.assembly import Assembled
from refarch.pipeline.process_memory import peak_memory
from refarch.pipeline.run_folder import RunFolder, versions
from refarch.pipeline.trainer import AdaptationTrainer

SPEEDS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
"""What Trainer puts among the metrics that says nothing about the model."""


@dataclass
class Clock:
    """Seconds spent in each phase, earlier attempts included."""

    folder: RunFolder
    spent: dict[str, float] = field(default_factory=dict)

    @classmethod
    def started(cls, folder: RunFolder) -> Clock:
        """The clock of one more attempt at a run."""
        clock = cls(folder, folder.spent())
        clock.spent["attempts"] = clock.spent.get("attempts", 0) + 1
        clock.spent.setdefault("started", time.time())
        return clock

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - began
            self.folder.note(self.spent)


def record_of(
    parts: Assembled,
    files: RunFolder,
    clock: Clock,
    trainer: AdaptationTrainer,
    metrics: dict[str, float],
    saved: list[Path],
    threads: int,
) -> RunRecord:
    """The record of a run that is about to end.

    Args:
        parts: what ran.
        files: where.
        clock: with every phase on it.
        trainer: has trained and evaluated.
        metrics: as it gave them, under names with ``eval_`` in front.
        saved: the folders of the adaptations.
        threads: torch's.

    Raises:
        RunError: the task did not give the metric that is its score.
    """
    values = {key.removeprefix("eval_"): float(value) for key, value in metrics.items() if key.startswith("eval_")}
    spec, data = parts.task_spec, parts.data
    if spec.metric not in values:
        raise RunError(f"task {spec.name!r} promises the metric {spec.metric!r} but gave {', '.join(sorted(values))}")
    return RunRecord(
        pipeline=parts.pipeline,
        score=values[spec.metric],
        metric=spec.metric,
        greater_is_better=spec.greater_is_better,
        formulation=parts.formulation.name,
        metrics={k: v for k, v in values.items() if k not in SPEEDS},
        baselines=parts.task.baselines() if parts.pipeline.score_on == "test" else {},
        seeds=parts.seeds,
        times=Times(**{name: clock.spent.get(name, 0.0) for name in Times.model_fields}),
        trainable_parameters=sum(adaptation.count() for adaptation in parts.adaptations),
        module_parameters=sum(adaptation.count(head=False) for adaptation in parts.adaptations),
        total_parameters=parts.total_parameters,
        peak_memory_bytes=peak_memory(),
        saved_bytes=sum(file.stat().st_size for folder in saved for file in folder.iterdir()),
        steps=trainer.state.global_step,
        resumed=int(clock.spent["attempts"]) - 1,
        examples={
            "train": len(data.train),
            "validation": len(data.validation) if data.validation is not None else 0,
            "test": len(data.test),
        },
        device=str(parts.model.device),
        threads=threads,
        versions=versions(),
        adaptations=tuple(str(folder.relative_to(files.path)) for folder in saved),
        started=datetime.fromtimestamp(clock.spent["started"], UTC).isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
