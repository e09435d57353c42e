"""What a method of the library's is here, and how its tensors and modules are found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from refarch.engine import Site
from refarch.errors import CheckpointError, CompositionError
from refarch_interchange.places import Chosen, Places

Values = dict[str, Tensor]
"""Tensors of a function by their names here."""
ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "swish": "silu", "silu": "silu", "tanh": "tanh"}
PLACES = {
    "attention_adapters": "attention.output",
    "cross_attention_adapters": "cross_attention.output",
    "output_adapters": "ffn.down",
}
"""Where a layer has a child for each place; elsewhere it stands beside the projection whose output it reads."""


class Placed(NamedTuple):
    """A module of theirs: its slot here, and its values."""

    chosen: Chosen
    values: Values


@dataclass
class Method:
    """One of the library's methods as a technique.

    Attributes:
        technique: refarch's name.
        preset: of the technique, if one is meant.
        options: for all modules.
        placed: the modules.
    """

    technique: str
    options: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None
    placed: list[Placed] = field(default_factory=list)


def require(settings: Mapping[str, Any], wanted: Mapping[str, tuple[Any, ...]], what: str) -> None:
    """Refuse a setting whose value means something that there is nothing for here.

    Raises:
        CompositionError: it is named.
    """
    for name, values in wanted.items():
        if name in settings and settings[name] not in values:
            raise CompositionError(
                f"{what} of the adapters library with {name}={settings[name]!r} cannot be expressed; it can with"
                f" {' or '.join(map(repr, values))}"
            )


def by_module(tensors: Mapping[str, Tensor], pool: str, name: str) -> dict[str, Values]:
    """The tensors of each module that has a pool of modules by name (``adapters``, ``loras``): by path and own name."""
    pattern = re.compile(rf"(?P<path>.*?)\.?\b{pool}\.{re.escape(name)}\.(?P<own>.+)")
    found: dict[str, Values] = {}
    for key, tensor in tensors.items():
        match = pattern.fullmatch(key)
        if match:
            found.setdefault(match["path"], {})[match["own"]] = tensor
    return found


def path_in(places: Places, path: str) -> str:
    """A path of theirs in this model, which may have a head where theirs had none, or the reverse."""
    prefix = f"{places.model.base_model_prefix}."
    for option in (path, prefix + path, path.removeprefix(prefix)):
        if option in places.modules:
            return option
    raise CheckpointError(f"the model has no module {path!r}", "is the checkpoint for another base?")


def beside(places: Places, path: str, slots: tuple[str, ...]) -> tuple[str, Site]:
    """The slot whose projection a module of theirs comes after.

    Raises:
        CheckpointError: there is none, or several.
    """
    owner, _, last = path.rpartition(".")
    wanted = (PLACES[last],) if last in PLACES else slots
    start = path_in(places, owner if last in PLACES else path)
    found = [
        (slot, site)
        for slot in wanted
        for site in places.available.get(slot, ())
        if places.path(site.end.module).startswith(f"{start}.")
    ]
    if len(found) != 1:
        raise CheckpointError(f"{path} stands beside {len(found)} of {', '.join(wanted)}", "is it for another base?")
    return found[0]


def layer_number(places: Places, site: Site) -> int:
    """Their number of a layer: those of a second stack count on."""
    before = 0
    if site.stack and site.stack.name == "decoder":
        before = len({s.shape.layer for s in places.available["layer"] if s.stack and s.stack.name == "encoder"})
    return before + (site.shape.layer or 0)
