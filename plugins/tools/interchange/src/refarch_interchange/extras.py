"""What a checkpoint holds beside the technique: heads, biases and whole modules that were trained along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from refarch import ModuleSpec
from refarch.errors import CheckpointError, CompositionError
from refarch_interchange.files import PeftFiles
from refarch_interchange.places import Chosen, Places

KINDS = ("linear", "norm", "embedding")


class Extras(NamedTuple):
    """Parameters of the base that a checkpoint has values of."""

    train_head: bool
    modules: list[ModuleSpec]
    """Selections that train the others."""
    tensors: dict[str, str]
    """By path in the model: the tensor's name."""


def find(names: Iterable[str], files: PeftFiles, prefix: str, places: Places) -> Extras:
    """Which parameters of the base these tensors are.

    Args:
        names: of tensors that are nobody else's.
        files: that they are from; those that say the same as another count as used.
        prefix: of their names.
        places: of the model.

    Raises:
        CheckpointError: one belongs to no parameter of the model.
        CompositionError: a parameter is tied to another, so that a copy of its own would be another model.
        SlotError: it is at no slot.
    """
    parameters = dict(places.model.named_parameters(remove_duplicate=False))
    found: dict[str, str] = {}
    for name in sorted(names):
        path = name.removeprefix(prefix).replace(".base_layer.", ".")
        if path not in parameters:
            raise CheckpointError(
                f"tensor {name!r} belongs to no adapted module and to no parameter of {type(places.model).__name__}",
                "is the checkpoint for another base or another head?",
            )
        found[path] = name
    _untie(found, parameters, files)
    own = dict(places.model.named_parameters())
    head = {path for path in own if places.in_head(path)}
    train_head = bool(head) and head <= found.keys()
    rest = found.keys() - (head if train_head else set())
    return Extras(train_head, _selections(rest, head if train_head else set(), places), found)


def _untie(found: dict[str, str], parameters: Mapping[str, Tensor], files: PeftFiles) -> None:
    """Of parameters that are one, the first name, which is the base's own; all must be there, with the same values."""
    for path in list(found):
        same = [other for other, value in parameters.items() if value is parameters[path]]
        if len(same) == 1 or path not in found:
            continue
        names = [found[other] for other in same if other in found]
        if len(names) < len(same) or not all(torch.equal(files.tensors[names[0]], files.tensors[n]) for n in names[1:]):
            raise CompositionError(
                f"the checkpoint has values of its own for {path}, which is tied to"
                f" {next(other for other in same if other != path)}; refarch keeps ties",
                "untie the base's embeddings first, or leave that module out of modules_to_save",
            )
        for other in same[1:]:
            files.take(found.pop(other))


def _selections(paths: set[str], head: set[str], places: Places) -> list[ModuleSpec]:
    biases = {path for path, _ in places.model.named_parameters() if path.split(".")[-1] == "bias"}
    biases = {path for path in biases if not path.startswith("refarch.")}
    if paths and paths == biases - head:
        return [selection("biases", ("model",), ("bias",))]
    leaves: dict[str, set[str]] = {}
    for path in sorted(paths):
        module, _, leaf = path.rpartition(".")
        leaves.setdefault(module, set()).add(leaf)
    chosen = [
        Chosen(slot, site, tuple(sorted(names)))
        for module, names in leaves.items()
        for slot, site in places.at(module, KINDS, f"the saved {' and '.join(sorted(names))}")
    ]
    return [
        selection(f"saved_{number}", group.workspace, group.value).model_copy(update={"layers": group.layers})
        for number, group in enumerate(places.groups(chosen), 1)
    ]


def selection(name: str, workspace: tuple[str, ...], parameters: tuple[str, ...]) -> ModuleSpec:
    """A module spec that trains parameters of the base in a copy."""
    return ModuleSpec(
        name=name,
        workspace=workspace,
        insertion="sequential",
        integration="selection",
        input_type="weights",
        adapted="selection",
        intra="none",
        inter="fixed",
        form="linear",
        parameters=parameters,
    )
