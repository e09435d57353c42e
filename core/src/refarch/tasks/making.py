"""A task from its spec: the one door through which its class is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refarch.architecture import TaskSpec
from refarch.errors import PluginError
from refarch.plugins.registry import resolve
from refarch.tasks.task import Task


def make_task(spec: TaskSpec, options: Mapping[str, Any], formulation: str) -> Task:
    """The task that a spec describes, before it has read any data.

    Args:
        spec: the task's, or a preset's.
        options: by name; those left out get their defaults.
        formulation: the name of the way in which it is put to the backbone.

    Raises:
        SpecError: a misspelt option or a wrong value.
        PluginError: the spec's implementation cannot be imported, or is no task.
    """
    task = resolve(spec.implementation)(**spec.configure(options))
    if not isinstance(task, Task):
        raise PluginError(
            f"task {spec.name!r}: {spec.implementation} makes a {type(task).__name__}, which is no refarch.Task",
            "tell its author: derive the class from refarch.Task",
        )
    task.formulation, task.metric = formulation, spec.metric
    return task
