"""Write out the plain model that an adaptation or a composition computes."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from refarch.composition.composition import Composition
from refarch.engine.adaptation.adaptation import Adaptation, adaptations
from refarch.errors import CompositionError, SaveError


def export(item: Adaptation | Composition, folder: str | Path) -> Path:
    """Write the plain transformers model that computes what an adaptation or a composition does: merged in.

    ``from_pretrained`` reads it; the model in memory stays as it is.

    Args:
        item: what is merged. Other adaptations of the model must be disabled, as the plain model is without them.
        folder: made if need be.

    Raises:
        CompositionError: it does not merge exactly; or others are at work on the model.
        SaveError: writing failed.
    """
    own = [item] if isinstance(item, Adaptation) else list(item.parts.values())
    others = [one.name for one in adaptations(item.model) if one not in own and one.state == "attached" and one.active]
    if others:
        raise CompositionError(
            f"{', '.join(map(repr, others))} would not be in the exported model, which has {item.name!r} alone",
            "disable or merge them first",
        )
    item.merge()
    try:
        return _save_plain(item, Path(folder))
    finally:
        item.unmerge()


def _save_plain(item: Adaptation | Composition, folder: Path) -> Path:
    """The model without what is attached, first beside the folder and then into it."""
    model = item.model
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("refarch.")}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            model.save_pretrained(temporary, state_dict=own)
            for path in sorted(Path(temporary).iterdir(), key=lambda path: path.name == "config.json"):
                os.replace(path, folder / path.name)
    except (OSError, shutil.Error) as error:
        raise SaveError(f"could not write {folder}: {error}", "free some space or choose another folder") from error
    return folder
