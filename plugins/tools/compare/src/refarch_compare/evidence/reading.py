"""From one file to one row: a run's ``record.json``, or an imported record."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refarch import ConfiguredTechnique, ModelSpec, Registry, RunRecord
from refarch.errors import DataError, RefarchError
from refarch.files import read_json
from refarch.plugins import resolve
from refarch_compare.evidence.row import IMPORTED, Row

RECORD = "record.json"
"""What a finished run leaves."""
MEASURES = "measures.json"
"""Further figures of a run, beside its record: a mapping from a measure's name to a number."""
SUFFIX = ".evidence.json"
"""What the name of an imported record ends with."""


class Reader:
    """Reads files into rows; each technique is configured, and each backbone looked up, once.

    Args:
        registry: where techniques and backbones are looked up.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._configured: dict[str, ConfiguredTechnique | None] = {}
        self._families: dict[str, str | None] = {}
        self._defaults: dict[str, Mapping[str, Any]] = {}

    def read(self, path: Path) -> Row:
        """The row of a file.

        Raises:
            RefarchError: it is truncated, malformed or no such record; says which file and why.
        """
        data = read_json(path)
        if not isinstance(data, dict):
            raise DataError(f"{path} holds a {type(data).__name__}, but a record is a mapping")
        row = self._run(data, path) if path.name == RECORD else self._imported(data, path)
        if not math.isfinite(row.score):
            raise DataError(f"{path}: the score is {row.score}, not a number")
        return row

    def _imported(self, data: dict[str, Any], path: Path) -> Row:
        row = Row.parse({**data, "path": str(path)}, str(path))
        if not row.imported:
            raise DataError(f"{path}: its origin is {row.origin!r}, but an imported record's begins with {IMPORTED!r}")
        return row.model_copy(update={"specs": self.specs([(row.technique, row.options)])})

    def _run(self, data: dict[str, Any], path: Path) -> Row:
        record = RunRecord.parse(data, str(path))
        pipeline, choices = record.pipeline, record.pipeline.techniques
        times, training = record.times, pipeline.training
        others = {name: value for name, value in record.metrics.items() if name != record.metric}
        baselines = {f"baseline {name}": value for name, value in record.baselines.items()}
        seconds = {"load_seconds": times.load, "evaluate_seconds": times.evaluate}
        return Row(
            technique="+".join(choice.name for choice in choices),
            label="+".join(choice.label or choice.name for choice in choices),
            options=dict(choices[0].options) if len(choices) == 1 else {c.name: dict(c.options) for c in choices},
            specs=self.specs([(choice.name, choice.options) for choice in choices]),
            backbone=pipeline.backbone.name,
            family=self.family(pipeline.backbone.name),
            task=pipeline.task.name,
            task_options=self.task_options(pipeline.task.name, pipeline.task.options),
            metric=record.metric if pipeline.score_on == "test" else f"{pipeline.score_on} {record.metric}",
            greater_is_better=record.greater_is_better,
            score=record.score,
            seed=pipeline.seed,
            trainable_parameters=record.trainable_parameters,
            module_parameters=record.module_parameters,
            total_parameters=record.total_parameters,
            saved_bytes=record.saved_bytes,
            peak_memory_bytes=record.peak_memory_bytes,
            train_seconds=times.train,
            seconds_per_step=times.train / record.steps if record.steps else None,
            device=record.device,
            steps=record.steps,
            learning_rate=training.learning_rate,
            batch_size=training.batch_size * training.gradient_accumulation,
            measures={**others, **baselines, **seconds, **_measures(path.with_name(MEASURES))},
            provenance=f"refarch {record.versions.get('refarch', '?')}, finished {record.finished}",
            path=str(path),
        )

    def specs(self, choices: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[ConfiguredTechnique, ...]:
        """The configured techniques, or nothing where one of them is not installed or has no such options."""
        found = [self._configure(name, options) for name, options in choices]
        return tuple(spec for spec in found if spec) if all(found) else ()

    def _configure(self, name: str, options: Mapping[str, Any]) -> ConfiguredTechnique | None:
        key = json.dumps([name, options], sort_keys=True, default=str)
        if key not in self._configured:
            spec = None
            if name in self.registry.names("technique"):
                try:
                    spec = self.registry.technique(name).configure(options)
                except RefarchError:  # a plugin of another version, or a broken one: the figures still count
                    spec = None
            self._configured[key] = spec
        return self._configured[key]

    def task_options(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that are not the task's own defaults; where it is not installed, all that are set."""
        if name not in self._defaults:
            self._defaults[name] = {}
            if name in self.registry.names("task"):
                with contextlib.suppress(RefarchError):  # a broken plugin: the figures still count
                    self._defaults[name] = self.registry.task(name).configure({})
        defaults = self._defaults[name]
        return {key: value for key, value in options.items() if value != defaults.get(key)}

    def family(self, backbone: str) -> str | None:
        """The family that serves a backbone, where its configuration is at hand."""
        if backbone not in self._families:
            self._families[backbone] = _family(backbone, self.registry)
        return self._families[backbone]


def _measures(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    data = read_json(path)
    if not isinstance(data, Mapping):
        raise DataError(f"{path} holds a {type(data).__name__}, but measures are a mapping from names to numbers")
    wrong = [name for name, value in data.items() if isinstance(value, bool) or not isinstance(value, (int, float))]
    if wrong:
        raise DataError(f"{path}: the measure {wrong[0]!r} is {data[wrong[0]]!r}, not a number")
    return {str(name): float(value) for name, value in data.items()}


def _family(backbone: str, registry: Registry) -> str | None:
    try:
        folder = Path(backbone).expanduser()
        if backbone in registry.names("backbone"):
            spec = registry.backbone(backbone)
            folder = Path(str(resolve(spec.source)())) if isinstance(spec, ModelSpec) else folder
        config = folder / "config.json"
        if not config.is_file():
            return None
        return registry.family_for(str(read_json(config).get("model_type"))).name
    except (RefarchError, AttributeError, OSError):
        return None
