"""What a task's author builds with."""

from refarch.tasks.task import Data, Rows, Task

__all__ = ["Data", "Rows", "Task"]
