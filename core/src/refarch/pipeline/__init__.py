"""Assemble pipelines from installed plugins and run them."""

from refarch.pipeline.folder import RunFolder
from refarch.pipeline.pool import Pool
from refarch.pipeline.run import run
from refarch.pipeline.task import Data, Rows, Task

__all__ = ["Data", "Pool", "Rows", "RunFolder", "Task", "run"]
