"""A technique's properties as typed features, read from the fields of its module specs.

Nothing here lists the properties: a field of :class:`~refarch.ModuleSpec` is a feature by its type, so that a property
which the reference architecture gains appears by itself. What is left out are the names, the code and the sources of a
module, which say nothing of its structure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from refarch import ConfiguredTechnique, ModuleSpec
from refarch.architecture import PROPERTIES, SLOTS, Layers, parse_slot

LEFT_OUT = ("name", "function", "arguments", "provenance", "shared")
"""Fields that are no property: what a module is called, which code it runs, where values come from; and ``shared``,
which there is exactly where there is ``sharing``."""
OWN_NAMES = ("frozen", "train_only", "schedule")
"""Fields that name parameters of a function, or code. Whether there are some can be compared, their names cannot."""
Kind = Literal["value", "set", "number", "group"]


@dataclasses.dataclass(frozen=True)
class Feature:
    """One property of one module.

    Attributes:
        name: the field's name.
        kind: ``value`` (equal or not), ``set``, ``number``, or ``group``: a mapping of features, or None for absent.
        value: a plain value, a frozenset, a number, or a dict of features.
    """

    name: str
    kind: Kind
    value: Any

    @property
    def label(self) -> str:
        """The property's name in the field."""
        return PROPERTIES.get(self.name, self.name.replace("_", " "))

    @property
    def text(self) -> str:
        """The value in words."""
        return _text(self.kind, self.value)

    def plain(self) -> Any:
        """The value as JSON."""
        if self.kind == "set":
            return _ordered(self.value)
        if self.kind == "group" and self.value is not None:
            return {name: feature.plain() for name, feature in self.value.items()}
        return self.value


@dataclasses.dataclass(frozen=True)
class Module:
    """One module of a technique as features by name, in the spec's order."""

    name: str
    features: Mapping[str, Feature]
    function: str


@dataclasses.dataclass(frozen=True)
class Structure:
    """What a technique is, apart from names, code and sizes."""

    label: str
    modules: tuple[Module, ...]

    def plain(self) -> list[dict[str, Any]]:
        """As JSON."""
        return [
            {"module": module.name, **{name: feature.plain() for name, feature in module.features.items()}}
            for module in self.modules
        ]


def structure(technique: ConfiguredTechnique, label: str = "") -> Structure:
    """The structure of a technique as it is configured: presets, slots and layers count, sizes do not."""
    modules = (
        Module(module.name, features(module, technique), module.function or "")
        for module in technique.technique.modules
    )
    return Structure(label or technique.name, tuple(modules))


def features(module: ModuleSpec, technique: ConfiguredTechnique) -> dict[str, Feature]:
    """The features of a module by name; every field that is a property has one.

    Where a field stands for options, as positions and a router may, their values are compared and not their names.

    Raises:
        SpecError: the options say what no module can be.
    """
    module = technique.decided(module).model_copy(update={"router": technique.router(module)})
    found = {}
    for name in type(module).model_fields:
        if name == "learning_rate_scale":  # it may name options, and a multiple of one is none
            scales = technique.learning_rate_scale(module).values()
            found[name] = Feature(name, "value", "some" if any(scale != 1 for scale in scales) else "none")
        elif name not in LEFT_OUT:
            found[name] = _feature(name, getattr(module, name))
    return found


def _feature(name: str, value: Any) -> Feature:
    if name == "workspace":  # a set of slots, whatever alias names them and whether a backbone may lack one
        return Feature(name, "set", frozenset(str(parse_slot(text)._replace(optional=False)) for text in value))
    if name in OWN_NAMES:
        return Feature(name, "value", "some" if value else "none")
    if isinstance(value, Layers):
        chosen = value.model_dump(exclude_none=True)
        return Feature(name, "value", _pairs(chosen) if chosen else "all")
    if isinstance(value, BaseModel):
        inner = {field: _feature(field, getattr(value, field)) for field in type(value).model_fields}
        return Feature(name, "group", inner)
    if isinstance(value, (tuple, list, frozenset, set)):
        return Feature(name, "set", frozenset(map(_hashable, value)))
    if isinstance(value, Mapping):
        return Feature(name, "set", frozenset(f"{key}={item}" for key, item in value.items()))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Feature(name, "number", float(value))
    return Feature(name, "value", _hashable(value))


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (str, bool, int, float, type(None))) else str(value)


def _text(kind: Kind, value: Any) -> str:
    if kind == "set":
        return ", ".join(_ordered(value)) or "-"
    if kind == "group" and value is not None:
        return ", ".join(f"{name}={feature.text}" for name, feature in value.items())
    if value is None:
        return "-"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value:g}" if kind == "number" else value


def _ordered(values: frozenset[str]) -> list[str]:
    """Slots in the order in which data flows; anything else by name."""
    order = {name: position for position, name in enumerate(SLOTS)}
    return sorted(map(str, values), key=lambda text: (order.get(text.partition(":")[0], -1), text))


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())
