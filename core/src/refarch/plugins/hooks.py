"""The hook specifications. A plugin implements those that fit its kind, marked with :data:`hookimpl`.

The spec hooks return data and must not import torch; the observer hooks are called while a pipeline runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from refarch.architecture import (
        FamilySpec,
        InterchangeSpec,
        ModelSpec,
        PipelineSpec,
        RunRecord,
        TaskSpec,
        TechniqueSpec,
    )
    from refarch.plugins.command import CommandSpec
    from refarch.plugins.discovery import Kind

PROJECT = "refarch"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's function as the implementation of the hook of its name."""
HOOKS: dict[Kind, str] = {
    "technique": "refarch_techniques",
    "backbone": "refarch_backbones",
    "task": "refarch_tasks",
    "command": "refarch_commands",
}
"""The hook that gives the specs of a kind of plugin; an observer has none."""


@hookspec
def refarch_techniques() -> Sequence[TechniqueSpec]:  # type: ignore[empty-body]
    """Entry-point group ``refarch.technique``: the techniques of this plugin, one for each entry-point name."""


@hookspec
def refarch_interchanges() -> Sequence[InterchangeSpec]:  # type: ignore[empty-body]
    """Beside ``refarch_techniques``, where wanted: what the techniques are in the files of other libraries."""


@hookspec
def refarch_backbones() -> Sequence[FamilySpec | ModelSpec]:  # type: ignore[empty-body]
    """Entry-point group ``refarch.backbone``: family tables, and named pretrained models."""


@hookspec
def refarch_tasks() -> Sequence[TaskSpec]:  # type: ignore[empty-body]
    """Entry-point group ``refarch.task``: tasks and their presets."""


@hookspec
def refarch_commands() -> Sequence[CommandSpec]:  # type: ignore[empty-body]
    """Entry-point group ``refarch.command``: commands added to ``refarch``, each with its own dependencies."""


@hookspec
def refarch_pipeline_built(pipeline: PipelineSpec, folder: Path) -> None:
    """Observer (group ``refarch.observer``): the model is loaded and the modules are attached.

    Args:
        pipeline: what is about to run.
        folder: the run's folder.
    """


@hookspec
def refarch_step(folder: Path, step: int, total: int, metrics: Mapping[str, float]) -> None:
    """Observer: values of a training step were logged.

    Args:
        folder: the run's folder.
        step: optimizer steps taken.
        total: optimizer steps in all.
        metrics: loss, learning rate, gradient norm ...
    """


@hookspec
def refarch_evaluated(folder: Path, step: int, total: int, split: str, metrics: Mapping[str, float]) -> None:
    """Observer: the model was evaluated.

    Args:
        folder: the run's folder.
        step: optimizer steps taken.
        total: optimizer steps in all.
        split: ``validation`` or ``test``.
        metrics: the task's metrics and the loss.
    """


@hookspec
def refarch_run_finished(record: RunRecord, folder: Path) -> None:
    """Observer: the run's record is written.

    Args:
        record: the record.
        folder: the run's folder.
    """


HOOK_SPECIFICATIONS: dict[str, Callable[..., Any]] = {
    name: own for name, own in globals().items() if name.startswith("refarch_")
}
"""All hooks by name."""
