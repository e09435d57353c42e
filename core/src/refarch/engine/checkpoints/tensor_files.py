"""Tensor files whose name carries their digest: written, read and verified."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from refarch.engine.checkpoints.description import JSON_LIMIT
from refarch.engine.checkpoints.format import Checkpoint, compare
from refarch.errors import CheckpointError
from refarch.files import open_regular

MAGIC = {b"PK\x03\x04": "a zip archive, as torch.save writes", b"\x80": "a pickle", b"\x1f\x8b": "a gzip archive"}
"""How files begin that are often given in the place of tensors; read as a safetensors file's first number, which is its
header's length, any of these is absurdly large."""


DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
"""What parameters and buffers are stored in."""


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
