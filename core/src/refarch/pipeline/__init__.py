"""Assemble pipelines from installed plugins and run them."""

from refarch.pipeline.run import run
from refarch.pipeline.task import Data, Rows, Task

__all__ = ["Data", "Rows", "Task", "run"]
