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
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field
from torch import Tensor, nn

from refarch.architecture.expression import Expression, Operator, PartName, parts as names_of
from refarch.architecture.spec import Spec
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.checkpoints.format import ADAPTATION_FILE
from refarch.engine.checkpoints.reading import read as read_adaptation
from refarch.engine.checkpoints.tensor_files import forget_others, read_tensors, write_tensors
from refarch.errors import CheckpointError, SaveError, SpecError
from refarch.files import inside, read_json, write_text

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


STEM = "composition"


def save(
    folder: Path,
    name: str,
    expression: str | Operator,
    seed: int,
    parts: Mapping[str, Adaptation],
    tree: nn.Module,
    *,
    for_training: bool = False,
) -> Path:
    """Save a composition with its parts. Overwriting is atomic.

    Args:
        folder: made if need be.
        name: the composition's.
        expression: how its parts are combined.
        seed: what the operators' initial values depend on.
        parts: by name.
        tree: the operators' own modules.
        for_training: keep what only training needs.

    Raises:
        SaveError: writing failed; what was saved there before is untouched.
    """
    saved = {label: _save_part(part, folder / PARTS, for_training) for label, part in parts.items()}
    tensors = tree.state_dict()
    file = write_tensors(folder, STEM, tensors, {"format": "refarch"})
    described = SavedComposition(
        name=name,
        expression=expression,
        seed=seed,
        parts=saved,
        shapes={label: tuple(tensor.shape) for label, tensor in tensors.items()},
        tensors=file.name,
        sha256=file.sha256,
    )
    write_text(folder / FILE, described.to_json())
    forget_others(folder, STEM, file.name)
    _forget_parts(folder / PARTS, {part.folder for part in saved.values()})
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


def _forget_parts(folder: Path, kept: set[str]) -> None:
    """Remove the parts that earlier saves have left behind."""
    with contextlib.suppress(OSError):
        for old in folder.iterdir():
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
        names = set(names_of(saved.expression))
    except (SpecError, RecursionError) as error:
        raise CheckpointError(str(getattr(error, "message", error)), getattr(error, "hint", None)) from None
    if names != set(saved.parts):
        raise CheckpointError(
            f"{folder / FILE}: its expression names {', '.join(sorted(names))}, but its parts are"
            f" {', '.join(sorted(saved.parts))}",
            "the checkpoint was altered",
        )
    return saved, read_tensors(inside(folder, saved.tensors), saved.sha256, saved.shapes)
