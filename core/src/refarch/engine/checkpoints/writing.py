"""Save and load adaptations: tensors as safetensors, everything else as JSON. Nothing in a checkpoint is executed.

A folder holds ``adaptation.json`` and a tensor file whose name carries its own digest. The JSON file names the tensor
file and is renamed into place last, so at any moment the folder holds one whole checkpoint.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from pathlib import Path

from safetensors.torch import save as to_bytes
from torch import Tensor

from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.adaptation.load import (
    start_from,
)
from refarch.engine.checkpoints import provenance as origin
from refarch.engine.checkpoints.description import read_description
from refarch.engine.checkpoints.format import ADAPTATION_FILE, FORMAT, Checkpoint
from refarch.engine.checkpoints.reading import read
from refarch.engine.checkpoints.storage import file_size
from refarch.engine.functions.function import fold
from refarch.files import write_bytes, write_text

__all__ = ["ADAPTATION_FILE", "FORMAT", "Checkpoint", "read", "read_description", "save", "start_from"]


def save(adaptation: Adaptation, folder: Path, *, for_training: bool = False) -> Path:
    """See :meth:`Adaptation.save`."""
    tensors, metadata = contents(adaptation, for_training=for_training)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    data = to_bytes(tensors, metadata=metadata)
    checkpoint = _described(adaptation, tensors, hashlib.sha256(data).hexdigest(), for_training)
    write_bytes(folder / checkpoint.tensors, data)
    write_text(folder / ADAPTATION_FILE, checkpoint.to_json())
    for old in folder.glob("adaptation-*.safetensors"):
        if old.name != checkpoint.tensors:
            with contextlib.suppress(OSError):
                old.unlink()
    return folder


def contents(adaptation: Adaptation, *, for_training: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """See :meth:`Adaptation.saved_state`."""
    tensors = _folded(adaptation) if _folds(adaptation, for_training) else adaptation.state_dict()
    return tensors, {"format": "refarch", "technique": adaptation.technique.name}


def size(adaptation: Adaptation, *, for_training: bool = False) -> int:
    """See :meth:`Adaptation.saved_bytes`."""
    tensors, metadata = contents(adaptation, for_training=for_training)
    described = _described(adaptation, tensors, hashlib.sha256().hexdigest(), for_training)
    return file_size(tensors, metadata) + len(described.to_json().encode())


def _described(adaptation: Adaptation, tensors: dict[str, Tensor], digest: str, for_training: bool) -> Checkpoint:
    """Everything but the tensors."""
    return Checkpoint(
        name=adaptation.name,
        technique=adaptation.technique,
        source=adaptation.source,
        family=adaptation.family.name,
        seed=adaptation.seed,
        train_head=adaptation.train_head,
        folded=_folds(adaptation, for_training) or adaptation.folded,
        base=adaptation.base_fingerprint(),
        auto_class=origin.auto_class(adaptation.model, adaptation.family),
        labels=origin.labels(adaptation.model),
        versions=origin.versions(adaptation),
        slot_map=adaptation.slot_map,
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        tensors=f"adaptation-{digest[:12]}.safetensors",
        sha256=digest,
    )


def _folds(adaptation: Adaptation, for_training: bool) -> bool:
    """Whether saving drops what only training needs."""
    train_only = any(insertion.spec.train_only for insertion in adaptation.insertions)
    return train_only and not for_training and not adaptation.folded


def _folded(adaptation: Adaptation) -> dict[str, Tensor]:
    tensors = {name: tensor for name, tensor in adaptation.state_dict().items() if name.startswith("base:")}
    tree = copy.deepcopy(adaptation.tree)
    fold(tree)
    own = [*tree.named_parameters(), *tree.named_buffers()]  # what is shared once, unlike in a state dict
    return tensors | {name: tensor.detach() for name, tensor in own}
