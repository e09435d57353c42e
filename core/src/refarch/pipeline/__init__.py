"""Assemble pipelines from installed plugins and run them."""

from refarch.pipeline.pool import Pool
from refarch.pipeline.run import run
from refarch.pipeline.run_folder import RunFolder
from refarch.tasks import Data, Rows, Task

__all__ = ["Data", "Pool", "Rows", "RunFolder", "Task", "run"]
