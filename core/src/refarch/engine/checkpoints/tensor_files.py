"""Tensor files whose name carries their digest: written, read and verified."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from refarch.engine.checkpoints.format import JSON_LIMIT, refuse_differences
from refarch.errors import CheckpointError
from refarch.files import open_regular, write_bytes

Shapes = Mapping[str, tuple[int, ...]]

MAGIC = {b"PK\x03\x04": "a zip archive, as torch.save writes", b"\x80": "a pickle", b"\x1f\x8b": "a gzip archive"}
"""How files begin that are often given in the place of tensors; read as a safetensors file's first number, which is its
header's length, any of these is absurdly large."""
DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
"""What parameters and buffers are stored in."""


class TensorFile(NamedTuple):
    """A written file: its name in the folder, and its digest."""

    name: str
    sha256: str


def named(stem: str, sha256: str) -> TensorFile:
    """A file of some content."""
    return TensorFile(f"{stem}-{sha256[:12]}.safetensors", sha256)


def write_tensors(folder: Path, stem: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> TensorFile:
    """Write tensors to a file of their own, which replaces none of other content.

    Args:
        folder: made if need be.
        stem: how the file's name begins.
        tensors: by name; on whichever device.
        metadata: what the file says beside them.

    Raises:
        SaveError: writing failed.
    """
    data = to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, dict(metadata))
    file = named(stem, hashlib.sha256(data).hexdigest())
    write_bytes(folder / file.name, data)
    return file


def forget_others(folder: Path, stem: str, kept: str) -> None:
    """Remove the tensor files that earlier saves have left in a folder, as far as that is allowed."""
    with contextlib.suppress(OSError):
        for old in folder.glob(f"{stem}-*.safetensors"):
            if old.name != kept:
                with contextlib.suppress(OSError):
                    old.unlink()


def read_tensors(path: Path, sha256: str, shapes: Shapes) -> dict[str, Tensor]:
    """Read a tensor file of which nothing is believed.

    Args:
        path: the file.
        sha256: what its digest must be.
        shapes: of the tensors that it must hold, by name.

    Raises:
        CheckpointError: it is missing, truncated, altered or of another kind, or holds other tensors or values that are
            not finite.
    """
    try:
        _check_header(path, shapes)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            raise CheckpointError(
                f"{path} was truncated or altered: its digest is {digest[:12]}, expected {sha256[:12]}",
                "use another copy of the checkpoint",
            )
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no valid safetensors file: {error}") from None
    refuse_differences("tensors", as_text(shapes), as_text({n: tuple(t.shape) for n, t in tensors.items()}), path)
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


def as_text(shapes: Shapes) -> dict[str, str]:
    """Shapes to compare and show."""
    return {name: str(tuple(shape)) for name, shape in shapes.items()}


def _check_header(path: Path, shapes: Shapes) -> None:
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
    most = 16 * sum(math.prod(shape) for shape in shapes.values()) + JSON_LIMIT + 8
    if size > most:
        raise CheckpointError(f"{path} is {size:,} bytes long, and what it should hold at most {most:,}")
