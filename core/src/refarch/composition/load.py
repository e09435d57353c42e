"""Load a saved composition, with its parts, onto a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from refarch.architecture import ConfiguredTechnique, FamilySpec, TechniqueSpec
from refarch.composition.composition import Composition
from refarch.composition.files import PARTS, SavedPart, read
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.adaptation.load import load
from refarch.engine.checkpoints.format import ADAPTATION_FILE
from refarch.engine.host.container import taken_names
from refarch.errors import CheckpointError, CompositionError
from refarch.files import inside
from refarch.plugins.registry import Registry


def load_composition(
    model: PreTrainedModel,
    folder: str | Path,
    *,
    name: str | None = None,
    trainable: bool = False,
    any_base: bool = False,
    techniques: Mapping[str, TechniqueSpec | ConfiguredTechnique] | None = None,
    family: FamilySpec | None = None,
    registry: Registry | None = None,
) -> Composition:
    """Load a saved composition, with its parts, onto a model.

    Args:
        model: the base that the parts were trained on.
        folder: what :meth:`Composition.save` has written.
        name: the composition's name on the model; its saved one when left out.
        trainable: True to go on training it.
        any_base: accept a base of the same structure with other weights.
        techniques: by part, the spec that you trust, for techniques that no plugin provides.
        family: a backbone table; found by the model's type when left out.
        registry: where names are looked up.

    Raises:
        CheckpointError: the files are truncated or altered, or the base, slots, shapes or functions differ.
            The model is untouched.
    """
    folder = Path(folder)
    saved, tensors = read(folder)
    label = name or saved.name
    clash = sorted({*saved.parts, label} & taken_names(model))
    if clash or "." in label:
        raise CompositionError(
            f"the name {clash[0] if clash else label!r} is taken on this model", "detach what has it, or pass name="
        )
    found: dict[str, Adaptation] = {}
    with ExitStack() as undo:
        for part, where in saved.parts.items():
            path = inside(folder / PARTS, where.folder)
            _check_part(path, where)
            found[part] = load(
                model,
                path,
                name=part,
                trainable=trainable,
                any_base=any_base,
                technique=(techniques or {}).get(part),
                family=family,
                registry=registry,
            )
            undo.callback(found[part].detach)
        composition = Composition(model, saved.expression, found, name=label, seed=saved.seed, trainable=trainable)
        undo.callback(composition.detach, parts=False)
        _fill(composition, tensors, folder)
        undo.pop_all()
    return composition


def _check_part(path: Path, where: SavedPart) -> None:
    try:
        digest = hashlib.sha256((path / ADAPTATION_FILE).read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    if digest != where.sha256:
        raise CheckpointError(
            f"{path} was altered: its digest is {digest[:12]}, expected {where.sha256[:12]}",
            "use another copy of the checkpoint",
        )


@torch.no_grad()
def _fill(composition: Composition, tensors: dict[str, Tensor], folder: Path) -> None:
    """The operators' own values; their names and shapes must be exactly those of the expression on this model."""
    own = composition.tree.state_dict()
    here = {name: tuple(tensor.shape) for name, tensor in own.items()}
    there = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if here != there:
        wrong = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
        raise CheckpointError(
            f"{folder}: the operators' tensors do not fit this model, {wrong[0]} for one"
            f" ({there.get(wrong[0], 'none')} saved, {here.get(wrong[0], 'none')} here)"
        )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])
