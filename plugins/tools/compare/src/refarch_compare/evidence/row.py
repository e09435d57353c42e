"""A row of evidence: one result of one technique on one backbone and task with one seed, wherever it comes from."""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field

from refarch import ConfiguredTechnique
from refarch.architecture import Spec

RUN = "run"
"""The origin of a row that a run of refarch's own left."""
IMPORTED = "imported"
"""What the origin of every other row begins with."""


class Row(Spec):
    """One result. What a source does not tell is None; nothing is guessed."""

    technique: str = Field(min_length=1)
    """The technique's name; of a composition the names joined by ``+``; of an import the source's own name where no
    technique of refarch's is the same."""
    label: str = ""
    """What tells it from other configurations of the same technique (``lora rank 32``); the technique's name else."""
    options: dict[str, Any] = {}
    """The technique's options, with ``slots``, ``layers`` and ``preset``; of a composition by technique."""
    specs: tuple[ConfiguredTechnique, ...] = Field((), exclude=True)
    """The configured techniques, from which structural properties derive; empty where one is not installed. Not written
    to files: they follow from ``technique`` and ``options`` and are derived when a row is read."""
    backbone: str = Field(min_length=1)
    family: str | None = None
    """The backbone family that serves it."""
    task: str = Field(min_length=1)
    task_options: dict[str, Any] = {}
    """The task's options that are not its own defaults: other files, limits, splits."""
    metric: str
    """``validation accuracy`` where a run was scored on validation: that is no result on the test split."""
    greater_is_better: bool = True
    score: float
    seed: int | None = None
    trainable_parameters: int | None = None
    """All that trained: modules and head."""
    module_parameters: int | None = None
    """Those of the technique alone."""
    total_parameters: int | None = None
    """The backbone's, without modules."""
    saved_bytes: int | None = None
    peak_memory_bytes: int | None = None
    train_seconds: float | None = None
    seconds_per_step: float | None = None
    device: str | None = None
    steps: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    measures: dict[str, float] = {}
    """All other figures: further metrics, baselines, and what ``measures.json`` beside a record holds."""
    origin: str = RUN
    """``run``, or ``imported: <from where>``."""
    provenance: str = ""
    """How the figures came about: versions, the source's revision, what is known of its limits."""
    path: str = ""
    """The file that the row was read from."""

    @property
    def name(self) -> str:
        """The label, or the technique's name."""
        return self.label or self.technique

    @property
    def spec(self) -> ConfiguredTechnique | None:
        """The configured technique; None for a composition, and where the technique is not installed."""
        return self.specs[0] if len(self.specs) == 1 else None

    @property
    def imported(self) -> bool:
        """Whether others measured it."""
        return self.origin.startswith(IMPORTED)

    @property
    def problem(self) -> str:
        """The task with the options that make it another problem than the task by itself."""
        options = ", ".join(f"{name}={value}" for name, value in sorted(self.task_options.items()))
        return f"{self.task} ({options})" if options else self.task

    @property
    def configuration(self) -> str:
        """What rows of one configuration share: techniques with all options, and their training but for seeds."""
        spec = " ".join(spec.to_json(indent=None) for spec in self.specs)
        spec = spec or json.dumps([self.technique, self.options], sort_keys=True, default=str)
        return f"{spec} {self.learning_rate} {self.batch_size} {self.steps} {self.device}"

    @property
    def block(self) -> tuple[str, str, str, str, int | None]:
        """What a paired comparison holds fixed: task, metric, backbone, origin and seed."""
        return self.problem, self.metric, self.backbone, self.origin, self.seed
