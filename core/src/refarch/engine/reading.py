"""Read a checkpoint's files, of which nothing is believed: any of them may be truncated, altered, or made to do harm.

Sizes are looked at before anything is read, and everything that is read before anything is built from it. Older formats
are read as today's.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from refarch.architecture import ConfiguredTechnique
from refarch.architecture.base import Spec
from refarch.architecture.fingerprint import Fingerprint
from refarch.engine.adaptation import Source
from refarch.errors import CheckpointError, SpecError
from refarch.files import inside, open_regular, read_plain

logger = logging.getLogger(__name__)

FORMAT = 2
FILE = "adaptation.json"
JSON_LIMIT = 16 * 2**20
"""Bytes of ``adaptation.json``, and of a tensor file's header."""
MAGIC = {b"PK\x03\x04": "a zip archive, as torch.save writes", b"\x80": "a pickle", b"\x1f\x8b": "a gzip archive"}
"""How files begin that are often given in the place of tensors; read as a safetensors file's first number, which is its
header's length, any of these is absurdly large."""
DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
"""What parameters and buffers are stored in."""


class Checkpoint(Spec):
    """What ``adaptation.json`` holds."""

    format: int = FORMAT
    name: str
    technique: ConfiguredTechnique
    source: Source
    family: str
    seed: int
    train_head: bool
    folded: bool
    """Whether the parts that only training needs were dropped."""
    base: Fingerprint
    auto_class: str = ""
    """The transformers auto class that loads the base as it was, with its head; empty if none does."""
    labels: dict[int, str] = {}
    """Of a head that tells labels apart: their names by their numbers."""
    versions: dict[str, str] = {}
    """The distributions that took part, as they were when it was saved: refarch, its plugins, torch, transformers."""
    slot_map: dict[str, str]
    """Address of each insertion to the path of the module in the base."""
    shapes: dict[str, tuple[int, ...]]
    tensors: str
    """Name of the tensor file in the same folder."""
    sha256: str


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
    if not (folder / FILE).is_file():
        raise CheckpointError(f"{folder} holds no {FILE}", "give the folder that Adaptation.save or a run has written")
    raw = read_plain(inside(folder, FILE), JSON_LIMIT)
    raw, said = migrated(raw, folder) if isinstance(raw, dict) else ({"format": None}, [])
    for line in said:
        logger.info("%s: %s", folder, line)
    try:
        return Checkpoint.parse(raw, str(folder / FILE))
    except SpecError as error:
        raise CheckpointError(error.message, error.hint) from None


def migrated(raw: dict[str, Any], folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What an ``adaptation.json`` of any format says, in today's, and in words what that changed.

    Raises:
        CheckpointError: it is of a newer format, or of none that there was.
    """
    given, said = raw.get("format"), list[str]()
    version = given if type(given) is int else 0
    if version > FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {version}; this refarch reads up to {FORMAT}", "update refarch"
        )
    while version in MIGRATIONS:
        raw, change = MIGRATIONS[version](raw)
        said.append(f"format {version} is read as {version + 1}: {change}")
        version += 1
    if version != FORMAT:
        raise CheckpointError(f"{folder} has no checkpoint format that there was: {given!r:.40}", "use another copy")
    return {**raw, "format": FORMAT}, said


def _from_1(raw: dict[str, Any]) -> tuple[dict[str, Any], str]:
    source = raw.get("source")
    made = {source["distribution"]: source["version"]} if isinstance(source, dict) and source.get("version") else {}
    return {**raw, "versions": made}, "it does not say with which head its base was loaded, nor the head's labels"


MIGRATIONS: dict[int, Callable[[dict[str, Any]], tuple[dict[str, Any], str]]] = {1: _from_1}
"""For each older format: its fields as those of the next one, and in words what the next one knows that it does not."""


def _read_tensors(path: Path, checkpoint: Checkpoint) -> dict[str, Tensor]:
    try:
        _check_header(path, checkpoint)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != checkpoint.sha256:
            raise CheckpointError(
                f"{path} was truncated or altered: its digest is {digest[:12]}, expected {checkpoint.sha256[:12]}",
                "use another copy of the checkpoint",
            )
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no valid safetensors file: {error}") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    compare("tensors", {n: str(s) for n, s in checkpoint.shapes.items()}, {n: str(s) for n, s in shapes.items()}, path)
    strange = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype not in DTYPES]
    if strange:
        raise CheckpointError(f"{path} holds values of a kind that no adaptation has: {', '.join(strange[:3])}")
    bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(_as_loaded(tensor)).all())]
    if bad:
        raise CheckpointError(f"{path} holds values that are not finite, in {', '.join(bad[:3])}")
    return tensors


def _as_loaded(tensor: Tensor) -> Tensor:
    """Parameters are of single precision, in which a larger number becomes infinite."""
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _check_header(path: Path, checkpoint: Checkpoint) -> None:
    """Look at a tensor file's first bytes and its length before anything else reads it."""
    with open_regular(path) as file:
        start, size = file.read(8), os.fstat(file.fileno()).st_size
    header = int.from_bytes(start, "little")
    if header > JSON_LIMIT:
        kind = next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), None)
        raise CheckpointError(
            f"{path} is no valid safetensors file: "
            + (f"it is {kind}; nothing of it was read" if kind else f"its header would be {header:,} bytes long"),
            "ask whoever made it for safetensors, which cannot hold code" if kind else "use another copy",
        )
    most = 16 * sum(math.prod(shape) for shape in checkpoint.shapes.values()) + JSON_LIMIT + 8
    if size > most:
        raise CheckpointError(f"{path} is {size:,} bytes long, and what it should hold at most {most:,}")


def compare(what: str, saved: dict[str, str], here: dict[str, str], where: Any) -> None:
    """Refuse two tables that differ, with the differences.

    Raises:
        CheckpointError: they do.
    """
    if saved == here:
        return
    missing, extra = sorted(saved.keys() - here.keys()), sorted(here.keys() - saved.keys())
    changed = [
        f"{n} ({saved[n]} saved, {here[n]} here)" for n in sorted(saved.keys() & here.keys()) if saved[n] != here[n]
    ]
    parts = [
        f"{label} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for label, names in (("only saved:", missing), ("only here:", extra), ("different:", changed))
        if names
    ]
    raise CheckpointError(f"{where}: {what} do not match: " + "; ".join(parts))
