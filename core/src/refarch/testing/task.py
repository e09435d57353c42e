"""The conformance class for tasks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

from refarch.architecture import TaskSpec
from refarch.testing.checks.task import TASK_CHECKS, TaskCase, task_cases
from refarch.testing.conformance import Conformance


class TaskConformance(Conformance):
    """Everything that must hold for a task, with a tokenizer that needs no files.

    Subclass it in a test module of the plugin::

        class TestNews(TaskConformance):
            task = "news"
            options = {"train_limit": 64}

    Attributes:
        task: an installed task's name, or a spec.
        options: the task's options.
        exempt: name of a test to the reason why it need not hold.
    """

    task: ClassVar[str | TaskSpec | None] = None
    options: ClassVar[dict[str, Any]] = {}
    subject = "task"
    checks: ClassVar[dict[str, Any]] = TASK_CHECKS

    @classmethod
    def prepare(cls, folder: Path) -> dict[str, Any]:
        """The options; override it to write data files first.

        Args:
            folder: for the files; empty, and gone after the session.
        """
        return dict(cls.options)

    @classmethod
    def cases(cls) -> list[TaskCase]:
        """The task in each of its formulations. Its data are read when the first test needs them."""
        assert cls.task is not None
        folder = tempfile.TemporaryDirectory(prefix="refarch-task-")

        def prepare() -> dict[str, Any]:
            return cls.prepare(Path(folder.name))

        return task_cases(cls.task, prepare)
