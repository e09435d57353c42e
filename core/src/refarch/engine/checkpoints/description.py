"""What a checkpoint says about itself, read without its tensors and without torch. Nothing in it is believed."""

from __future__ import annotations

import logging
from pathlib import Path

from refarch.engine.checkpoints.format import ADAPTATION_FILE, JSON_LIMIT, Checkpoint, migrated
from refarch.errors import CheckpointError, SpecError
from refarch.files import inside, read_plain

logger = logging.getLogger(__name__)


def read_description(folder: Path) -> Checkpoint:
    """Read what a checkpoint says about itself, in today's format, and none of its tensors.

    Raises:
        CheckpointError: missing, altered or not of a format that this version reads.
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
