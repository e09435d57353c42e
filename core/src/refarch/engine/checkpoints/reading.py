"""Read a checkpoint's files, of which nothing is believed: any of them may be truncated, altered, or made to do harm.

Sizes are looked at before anything is read, and everything that is read before anything is built from it. Older formats
are read as today's.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from refarch.engine.checkpoints.description import read_description
from refarch.engine.checkpoints.format import Checkpoint
from refarch.engine.checkpoints.tensor_files import read_tensors
from refarch.files import inside


def read(folder: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Read and verify a checkpoint's files.

    Raises:
        CheckpointError: missing, truncated, altered or not of a format that this version reads.
    """
    checkpoint = read_description(folder)
    return checkpoint, read_tensors(inside(folder, checkpoint.tensors), checkpoint.sha256, checkpoint.shapes)
