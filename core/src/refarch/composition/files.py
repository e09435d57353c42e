"""Save and load compositions. Nothing in a checkpoint is executed.

A folder holds ``composition.json``, the operators' own tensors in a file whose name carries its digest, and below
``parts`` a folder for each part, an ordinary checkpoint of an adaptation, whose name carries its digest too. The JSON
file names all of them and is renamed into place last, so at any moment the folder holds one whole checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes, save as to_bytes
from torch import Tensor

from refarch.architecture.expression import Expression, PartName, parts
from refarch.architecture.spec import Spec
from refarch.composition.composition import Composition
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.checkpoints.format import ADAPTATION_FILE
from refarch.engine.checkpoints.reading import read as read_adaptation
from refarch.errors import CheckpointError, SaveError, SpecError
from refarch.files import inside, read_json, write_bytes, write_text

FORMAT = 1
FILE = "composition.json"
PARTS = "parts"


class SavedPart(Spec):
    """One part in ``composition.json``."""

    folder: str
    """Below ``parts``."""
    sha256: str
    """Of its ``adaptation.json``, which has that of its tensors."""


class SavedComposition(Spec):
    """What ``composition.json`` holds."""

    format: int = FORMAT
    name: str
    expression: Expression
    seed: int
    parts: dict[PartName, SavedPart] = Field(min_length=1, max_length=10_000)
    shapes: dict[str, tuple[int, ...]]
    """Of the operators' own tensors."""
    tensors: str
    """Name of their file in the same folder."""
    sha256: str


def save(composition: Composition, folder: Path, *, for_training: bool = False) -> Path:
    """See :meth:`Composition.save`."""
    saved = {name: _save_part(part, folder / PARTS, for_training) for name, part in composition.parts.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in composition.tree.state_dict().items()}
    data = to_bytes(tensors, metadata={"format": "refarch"})
    digest = hashlib.sha256(data).hexdigest()
    described = SavedComposition(
        name=composition.name,
        expression=composition.expression,
        seed=composition.seed,
        parts=saved,
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        tensors=f"composition-{digest[:12]}.safetensors",
        sha256=digest,
    )
    write_bytes(folder / described.tensors, data)
    write_text(folder / FILE, described.to_json())
    _forget_old(folder, described)
    return folder


def _save_part(part: Adaptation, folder: Path, for_training: bool) -> SavedPart:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{part.name}.", dir=folder))
    except OSError as error:
        raise SaveError(f"could not write {folder}: {error.strerror or error}") from error
    try:
        part.save(temporary, for_training=for_training)
        digest = hashlib.sha256((temporary / ADAPTATION_FILE).read_bytes()).hexdigest()
        target = folder / f"{part.name}-{digest[:12]}"
        if not _whole(target):
            shutil.rmtree(target, ignore_errors=True)
            os.chmod(temporary, 0o755)
            os.replace(temporary, target)
        return SavedPart(folder=target.name, sha256=digest)
    except OSError as error:
        raise SaveError(f"could not write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _whole(folder: Path) -> bool:
    """Whether a part has been saved there before, and is undamaged."""
    try:
        read_adaptation(folder)
    except CheckpointError:
        return False
    return True


def _forget_old(folder: Path, described: SavedComposition) -> None:
    """What an earlier save has left behind."""
    kept = {part.folder for part in described.parts.values()}
    with contextlib.suppress(OSError):
        for old in folder.glob("composition-*.safetensors"):
            if old.name != described.tensors:
                old.unlink()
        for old in (folder / PARTS).iterdir():
            if (
                old.name not in kept
                and not old.name.startswith(".")
                and (old / ADAPTATION_FILE).is_file()
                and not old.is_symlink()
            ):
                shutil.rmtree(old, ignore_errors=True)


def read(folder: Path) -> tuple[SavedComposition, dict[str, Tensor]]:
    """Read and verify a checkpoint's own files; the parts' are verified as they are loaded.

    Raises:
        CheckpointError: missing, truncated, altered or not of a format that this version reads.
    """
    if not (folder / FILE).is_file():
        raise CheckpointError(f"{folder} holds no {FILE}", "give the folder that Composition.save has written")
    raw = read_json(folder / FILE)
    version = raw.get("format") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(
            f"{folder} has composition format {version}; this refarch reads up to {FORMAT}", "update refarch"
        )
    try:
        saved = SavedComposition.parse(raw if isinstance(raw, dict) else {"format": None}, str(folder / FILE))
        names = set(parts(saved.expression))
    except (SpecError, RecursionError) as error:
        raise CheckpointError(str(getattr(error, "message", error)), getattr(error, "hint", None)) from None
    if names != set(saved.parts):
        raise CheckpointError(
            f"{folder / FILE}: its expression names {', '.join(sorted(names))}, but its parts are"
            f" {', '.join(sorted(saved.parts))}",
            "the checkpoint was altered",
        )
    return saved, _read_tensors(inside(folder, saved.tensors), saved)


def _read_tensors(path: Path, saved: SavedComposition) -> dict[str, Tensor]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != saved.sha256:
        raise CheckpointError(
            f"{path} was truncated or altered: its digest is {digest[:12]}, expected {saved.sha256[:12]}",
            "use another copy of the checkpoint",
        )
    try:
        tensors = from_bytes(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is no valid safetensors file: {error}") from None
    bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise CheckpointError(f"{path} holds values that are not finite, in {', '.join(bad[:3])}")
    return tensors
