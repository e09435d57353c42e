"""Save and load adaptations: tensors as safetensors, everything else as JSON. Nothing in a checkpoint is executed.

A folder holds ``adaptation.json`` and a tensor file whose name carries its own digest. The JSON file names the tensor
file and is renamed into place last, so at any moment the folder holds one whole checkpoint.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from refarch.architecture import ConfiguredTechnique, TechniqueSpec
from refarch.architecture.base import Spec
from refarch.engine.adaptation import Adaptation, Source
from refarch.engine.fingerprint import Fingerprint
from refarch.engine.function import Function, fold
from refarch.engine.storage import file_size
from refarch.errors import CheckpointError, SpecError
from refarch.files import inside, read_json, write_bytes, write_text
from refarch.plugins.registry import default_registry

if TYPE_CHECKING:
    from refarch.plugins.registry import Registry

FORMAT = 1
FILE = "adaptation.json"


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
    slot_map: dict[str, str]
    """Address of each insertion to the path of the module in the base."""
    shapes: dict[str, tuple[int, ...]]
    tensors: str
    """Name of the tensor file in the same folder."""
    sha256: str


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


def read(folder: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Read and verify a checkpoint's files.

    Raises:
        CheckpointError: missing, truncated, altered or not of a format that this version reads.
    """
    if not (folder / FILE).is_file():
        raise CheckpointError(f"{folder} holds no {FILE}", "give the folder that Adaptation.save or a run has written")
    raw = read_json(folder / FILE)
    version = raw.get("format") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {version}; this refarch reads up to {FORMAT}", "update refarch"
        )
    try:
        checkpoint = Checkpoint.parse(raw if isinstance(raw, dict) else {"format": None}, str(folder / FILE))
    except SpecError as error:
        raise CheckpointError(error.message, error.hint) from None
    path = inside(folder, checkpoint.tensors)
    return checkpoint, _read_tensors(path, checkpoint)


def _read_tensors(path: Path, checkpoint: Checkpoint) -> dict[str, Tensor]:
    try:
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
    _compare("tensors", {n: str(s) for n, s in checkpoint.shapes.items()}, {n: str(s) for n, s in shapes.items()}, path)
    bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise CheckpointError(f"{path} holds values that are not finite, in {', '.join(bad[:3])}")
    return tensors


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
    declared = {module.function for module in installed.modules} | {
        module.get("function") for preset in installed.presets.values() for module in preset.get("modules", ())
    }
    strange = {module.function for module in wanted.technique.modules} - declared - {None}
    if strange:
        here = "the given spec"
        if trusted is None:
            found = registry.find("technique", wanted.name)
            here = f"the installed {found.distribution} {found.version}"
        raise CheckpointError(
            f"the checkpoint was made by {checkpoint.source.distribution or 'an inline spec'}"
            f" {checkpoint.source.version} and uses {', '.join(sorted(map(str, strange)))}, which {here}"
            " does not declare",
            "install the version that made it, or pass technique= with a spec that you trust",
        )
    return wanted


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
    _compare("slots", checkpoint.slot_map, adaptation_map, checkpoint.name)
    saved = {name: str(tuple(shape)) for name, shape in checkpoint.shapes.items()}
    _compare("shapes", saved, {name: str(tuple(shape)) for name, shape in shapes.items()}, checkpoint.name)


def _compare(what: str, saved: dict[str, str], here: dict[str, str], where: Any) -> None:
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
