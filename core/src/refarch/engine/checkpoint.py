"""Save and load adaptations: tensors as safetensors, everything else as JSON. Nothing in a checkpoint is executed.

A folder holds ``adaptation.json`` and a tensor file whose name carries its own digest. The JSON file names the tensor
file and is renamed into place last, so at any moment the folder holds one whole checkpoint.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from refarch.architecture import ConfiguredTechnique, Layers, TechniqueSpec
from refarch.architecture.fingerprint import Fingerprint
from refarch.engine import origin
from refarch.engine import plan as planning
from refarch.engine.adaptation import Adaptation
from refarch.engine.function import Function, fold
from refarch.engine.reading import FILE, FORMAT, Checkpoint, compare, read, read_description
from refarch.engine.sites import Resolver
from refarch.engine.storage import file_size
from refarch.errors import CheckpointError, RefarchError
from refarch.files import write_bytes, write_text
from refarch.plugins.registry import default_registry

if TYPE_CHECKING:
    from refarch.plugins.registry import Registry

__all__ = ["FILE", "FORMAT", "Checkpoint", "read", "read_description", "save", "start_from"]

SLACK = (2**16, 2**28)
"""Numbers that a function may have beyond those that its checkpoint holds: of layers of other widths, and of what only
training needs, where that was dropped from the checkpoint."""


def save(adaptation: Adaptation, folder: Path, *, for_training: bool = False) -> Path:
    """See :meth:`Adaptation.save`."""
    tensors, metadata = contents(adaptation, for_training=for_training)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    data = to_bytes(tensors, metadata=metadata)
    checkpoint = _described(adaptation, tensors, hashlib.sha256(data).hexdigest(), for_training)
    write_bytes(folder / checkpoint.tensors, data)
    write_text(folder / FILE, checkpoint.to_json())
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


def trusted_technique(
    checkpoint: Checkpoint, trusted: TechniqueSpec | None, registry: Registry | None
) -> ConfiguredTechnique:
    """The checkpoint's technique, if a spec that the user trusts declares the functions that it uses: the given one, or
    that of an installed plugin of its name.

    A checkpoint cannot bring code: the import paths in it count only where a trusted spec has them too.

    Raises:
        CheckpointError: the installed plugin does not declare what the checkpoint uses.
        UnknownNameError: no plugin of that name is installed.
    """
    wanted = checkpoint.technique
    registry = registry or default_registry()
    installed = registry.technique(wanted.name) if trusted is None else trusted
    strange = origin.import_paths(wanted.technique) - origin.import_paths(installed, presets=True)
    if strange:
        here = "the given spec"
        if trusted is None:
            found = registry.find("technique", wanted.name)
            here = f"the installed {found.distribution} {found.version}"
        raise CheckpointError(
            f"the checkpoint was made by {checkpoint.source.distribution or 'an inline spec'}"
            f" {checkpoint.source.version} and uses {', '.join(sorted(strange))}, which {here}"
            " does not declare",
            "install the version that made it, or pass technique= with a spec that you trust",
        )
    return wanted


def plan(
    resolver: Resolver, technique: ConfiguredTechnique, checkpoint: Checkpoint, device: torch.device
) -> planning.Plan:
    """Build the functions that a checkpoint's values belong to, without touching the model.

    Raises:
        RefarchError: it cannot be built here; whatever the checkpoint's options make a function raise is told as a
            :class:`CheckpointError`.
    """
    try:
        _check_size(resolver, technique, checkpoint)
        found = planning.build(resolver, technique, checkpoint.seed, None, device, values=False)
        for insertion in found.insertions if checkpoint.folded else ():
            fold(insertion.function)
    except RefarchError:
        raise
    except Exception as error:  # options come from the file, and functions may raise anything at strange ones
        raise CheckpointError(
            f"adaptation {checkpoint.name!r} cannot be built from its options: {type(error).__name__}: {error}",
            "the checkpoint was altered, or its technique's plugin is broken",
        ) from error
    return found


def _check_size(resolver: Resolver, technique: ConfiguredTechnique, checkpoint: Checkpoint) -> None:
    """Refuse options that ask for far more memory than the checkpoint has values, before any is taken.

    Raises:
        CheckpointError: naming the module.
    """
    saved = sum(math.prod(shape) for shape in checkpoint.shapes.values())
    for spec in technique.technique.modules:
        if spec.function is None:
            continue
        small = spec.model_copy(update={"layers": Layers(first=1, stacks=spec.layers.stacks)})
        alone = technique.model_copy(update={"technique": technique.technique.model_copy(update={"modules": (small,)})})
        built = planning.build(resolver, alone, 0, None, torch.device("meta"), values=False)
        own = {id(p): p.numel() for item in built.insertions for p in item.function.parameters()}
        wanted = sum(own.values())
        if wanted > 2 * saved + SLACK[checkpoint.folded]:
            raise CheckpointError(
                f"module {spec.name!r} would take {wanted:,} numbers in its first layer, and the checkpoint holds"
                f" {saved:,} in all",
                "its options were altered",
            )


def check_base(checkpoint: Checkpoint, base: Fingerprint, any_base: bool) -> None:
    """Refuse a base that is not the one the checkpoint belongs to.

    Raises:
        CheckpointError: with what differs.
    """
    reason = checkpoint.base.differs(base)
    if reason and not (any_base and checkpoint.base.structure == base.structure):
        raise CheckpointError(
            f"adaptation {checkpoint.name!r} belongs to another base: {reason}",
            "load the base that it was trained on, or pass any_base=True if only the weights differ on purpose",
        )


@torch.no_grad()
def start_from(adaptation: Adaptation, folder: Path) -> None:
    """Give an adaptation the values of a saved one, as a starting point for training.

    Args:
        adaptation: attached, of the same technique with the same options at the same slots.
        folder: of the saved one. It may have a head that the adaptation does not train, or lack one that it does.

    Raises:
        CheckpointError: the files are damaged, or the base, slots or shapes differ. The adaptation is as it was.
    """
    saved, tensors = read(folder)
    check_base(saved, adaptation.base_fingerprint(), False)
    compare("slots", saved.slot_map, adaptation.slot_map, folder)
    heads = tuple(f"base:{place.path}." for place in adaptation.resolver.head())
    own = adaptation.state_dict()
    shared = {name: tensor for name, tensor in tensors.items() if name in own or not name.startswith(heads)}
    wanted = {name: tensor for name, tensor in own.items() if name in tensors or not name.startswith(heads)}
    there, here = ({name: str(tuple(t.shape)) for name, t in each.items()} for each in (shared, wanted))
    if saved.folded and there != here:
        raise CheckpointError(
            f"{folder} was saved without what only training needs", "save it with for_training=True to start from it"
        )
    compare("shapes", there, here, folder)
    for name, tensor in wanted.items():
        tensor.copy_(tensors[name])


def resize(tree: nn.Module, checkpoint: Checkpoint) -> None:
    """Give folded functions the shapes that they have in a checkpoint, where folding decides them by values."""
    for path, module in tree.named_modules() if checkpoint.folded else ():
        if isinstance(module, Function):
            start = f"{path}."
            module.resize({n.removeprefix(start): s for n, s in checkpoint.shapes.items() if n.startswith(start)})


def check_fits(checkpoint: Checkpoint, adaptation_map: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse a checkpoint whose slot map or shapes are not what the technique gives on this model.

    Raises:
        CheckpointError: with the differences.
    """
    compare("slots", checkpoint.slot_map, adaptation_map, checkpoint.name)
    saved = {name: str(tuple(shape)) for name, shape in checkpoint.shapes.items()}
    compare("shapes", saved, {name: str(tuple(shape)) for name, shape in shapes.items()}, checkpoint.name)
