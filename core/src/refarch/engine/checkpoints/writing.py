"""Write an adaptation's files: tensors as safetensors, everything else as JSON.

A folder holds ``adaptation.json`` and a tensor file whose name carries its own digest. The JSON file names the tensor
file and is renamed into place last, so at any moment the folder holds one whole checkpoint.

How long the files will be is known from names and shapes alone. A safetensors file is eight bytes that give the
header's length, the header (JSON, padded with spaces to a multiple of eight) and the values: tensors of wider types
first, those of one type by name. The format: github.com/huggingface/safetensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from refarch.engine.checkpoints.format import ADAPTATION_FILE, Described
from refarch.engine.checkpoints.tensor_files import forget_others, named, write_tensors
from refarch.files import write_text

STEM = "adaptation"


def write(folder: Path, described: Described, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write a checkpoint's two files. Overwriting is atomic.

    Args:
        folder: made if need be.
        described: everything but the tensors.
        tensors: by name.
        metadata: what the tensor file says beside them.

    Raises:
        SaveError: writing failed; what was saved there before is untouched.
    """
    file = write_tensors(folder, STEM, tensors, metadata)
    write_text(folder / ADAPTATION_FILE, described.naming(*file).to_json())
    forget_others(folder, STEM, file.name)
    return folder


def size(described: Described, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """How many bytes :func:`write` writes, both files together; the tensors may be on the meta device."""
    text = described.naming(*named(STEM, hashlib.sha256().hexdigest())).to_json()
    return file_size(tensors, metadata) + len(text.encode())


_TYPES = (
    (torch.bool, "BOOL"),
    (torch.uint8, "U8"),
    (torch.int8, "I8"),
    (torch.float8_e5m2, "F8_E5M2"),
    (torch.float8_e4m3fn, "F8_E4M3"),
    (torch.int16, "I16"),
    (torch.float16, "F16"),
    (torch.bfloat16, "BF16"),
    (torch.int32, "I32"),
    (torch.float32, "F32"),
    (torch.complex64, "C64"),
    (torch.float64, "F64"),
    (torch.int64, "I64"),
)
"""Types and their names in the format; those that stand later here stand earlier in a file."""
_NAMES = dict(_TYPES)
_PLACES = {dtype: -place for place, (dtype, _) in enumerate(_TYPES)}
_ALIGNMENT = 8


def file_size(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Bytes of the file that holds these tensors; they may be on the meta device.

    Args:
        tensors: by name; those that share memory are written once for each name.
        metadata: what the header holds beside them.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (_PLACES[item[1].dtype], item[0])):
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return _ALIGNMENT + -(-length // _ALIGNMENT) * _ALIGNMENT + end
