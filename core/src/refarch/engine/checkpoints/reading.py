"""Read a checkpoint's files, of which nothing is believed: any of them may be truncated, altered, or made to do harm.

Sizes are looked at before anything is read, and everything that is read before anything is built from it. Older formats
are read as today's.
"""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor

from refarch.engine.checkpoints.format import ADAPTATION_FILE, Checkpoint, migrated
from refarch.engine.checkpoints.tensor_files import JSON_LIMIT, _read_tensors
from refarch.errors import CheckpointError, SpecError
from refarch.files import inside, read_plain

logger = logging.getLogger(__name__)


def read(folder: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Read and verify a checkpoint's files.

    Raises:
        CheckpointError: missing, truncated, altered or not of a format that this version reads.
    """
    checkpoint = read_description(folder)
    return checkpoint, _read_tensors(inside(folder, checkpoint.tensors), checkpoint)


def read_description(folder: Path) -> Checkpoint:
    """Read what a checkpoint says about itself, in today's format, and none of its tensors.

    Raises:
        CheckpointError: as :func:`read`.
    """
    if not (folder / ADAPTATION_FILE).is_file():
        raise CheckpointError(
            f"{folder} holds no {ADAPTATION_FILE}", "give the folder that Adaptation.save or a run has written"
        )
    raw = read_plain(inside(folder, ADAPTATION_FILE), JSON_LIMIT)
    raw, said = migrated(raw, folder) if isinstance(raw, dict) else ({"format": None}, [])
    for line in said:
        logger.info("%s: %s", folder, line)
    try:
        return Checkpoint.parse(raw, str(folder / ADAPTATION_FILE))
    except SpecError as error:
        raise CheckpointError(error.message, error.hint) from None
