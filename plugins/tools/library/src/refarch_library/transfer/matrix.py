"""The score of each entry on each task's test split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refarch import PipelineSpec, Pool, Registry
from refarch.errors import CheckpointError, RefarchError
from refarch.files import below
from refarch_library.base import choice
from refarch_library.finding import Found, require_some
from refarch_library.transfer.scoring import score_saved


@dataclass
class Matrix:
    """Entries by tasks.

    Attributes:
        entries: their names, one a row.
        tasks: their labels, one a column.
        metrics: of each task, by name.
        greater: of each task, whether more is better.
        scores: None where an entry cannot be put to a task.
        reasons: why, in the same places; empty elsewhere.
        own: whether the entry was trained on the task.
    """

    entries: list[str]
    tasks: list[str]
    metrics: list[str]
    greater: list[bool]
    scores: list[list[float | None]] = field(default_factory=list)
    reasons: list[list[str]] = field(default_factory=list)
    own: list[list[bool]] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {"format": 1, **vars(self)}


def transfer_matrix(
    found: Sequence[Found],
    registry: Registry,
    *,
    tasks: Sequence[str] = (),
    any_labels: bool = False,
    limit: int | None = None,
    told: Callable[[str], None] = lambda text: None,
) -> Matrix:
    """Score every entry on every entry's task, and on further ones.

    An entry can be put to a task that its head suits: of the same labels in the same order, or without a head of its
    own. Where its run was on another backbone than another entry's, each is scored on its own.

    Args:
        found: the entries.
        registry: where tasks are looked up.
        tasks: names of further tasks, with their default options.
        any_labels: also score where labels have other names, as long as they are as many.
        limit: of the test split, at most so many rows (for tasks that have the option ``test_limit``).
        told: is told what comes next.

    Raises:
        UsageError: there is no entry.
    """
    require_some(found)
    columns = _columns(found, tasks, limit, registry)
    pool = Pool(tasks=len(columns))
    matrix = Matrix(
        [item.entry.name for item in found],
        list(columns),
        [registry.task(pipeline.task.name).metric for pipeline in columns.values()],
        [registry.task(pipeline.task.name).greater_is_better for pipeline in columns.values()],
    )
    for item in found:
        matrix.scores.append([])
        matrix.reasons.append([])
        matrix.own.append([])
        own = _limited(item.entry.record.pipeline, limit, registry)
        for label, pipeline in columns.items():
            told(f"{item.entry.name} on {label}")
            trained = _task_key(pipeline) == _task_key(own)
            # of its own task the test split of its own seed, in which there is nothing that it was trained on
            score, reason = _cell(item, own if trained else pipeline, registry, pool, any_labels)
            matrix.scores[-1].append(score)
            matrix.reasons[-1].append(reason)
            matrix.own[-1].append(trained)
    return matrix


def _cell(
    item: Found, pipeline: PipelineSpec, registry: Registry, pool: Pool, any_labels: bool
) -> tuple[float | None, str]:
    entry = item.entry
    folders = [below(item.folder, part.folder) for part in entry.parts]
    try:
        there = pipeline.model_copy(update={"backbone": choice(entry)})
        labels = None if any_labels or not any(part.head for part in entry.parts) else entry.base.labels
        return score_saved(there, folders, registry, pool, labels=labels), ""
    except CheckpointError as error:
        return None, f"it does not fit: {error.message}"
    except RefarchError as error:
        return None, error.message


def _columns(
    found: Sequence[Found], tasks: Sequence[str], limit: int | None, registry: Registry
) -> dict[str, PipelineSpec]:
    """A pipeline for each different task, by a label that tells it from the others."""
    first = found[0].entry.record.pipeline
    pipelines = [item.entry.record.pipeline for item in found]
    pipelines += [
        PipelineSpec.parse({**first.model_dump(exclude={"task"}), "task": name}, f"--task {name}") for name in tasks
    ]
    different = {_task_key(limited): limited for limited in (_limited(p, limit, registry) for p in pipelines)}
    columns: dict[str, PipelineSpec] = {}
    for pipeline in different.values():
        source = pipeline.task.options.get("train") or pipeline.task.options.get("dataset")
        label = pipeline.task.name + (f":{Path(str(source)).stem}" if source else "")
        number, unique = 2, label
        while unique in columns:
            unique, number = f"{label} ({number})", number + 1
        columns[unique] = pipeline
    return columns


def _limited(pipeline: PipelineSpec, limit: int | None, registry: Registry) -> PipelineSpec:
    """The task on at most so many rows; with data splits of one seed, so that columns are the same for all rows."""
    spec = registry.task(pipeline.task.name)
    options = spec.configure(pipeline.task.options)
    known = {option.name for option in spec.options}
    if limit is not None and "test_limit" in known:
        options["test_limit"] = min(limit, options.get("test_limit") or limit)
    task = pipeline.task.model_copy(update={"options": options})
    return pipeline.model_copy(update={"task": task})


def _task_key(pipeline: PipelineSpec) -> str:
    return f"{pipeline.task.to_json(indent=None)} {pipeline.score_on}"
