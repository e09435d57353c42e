"""What could be used: each installed technique and preset that keeps the limits, and why others do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refarch import ConfiguredTechnique, Registry
from refarch.errors import RefarchError
from refarch_compare import naming
from refarch_compare.advise.costing import Backbone, Cost
from refarch_compare.cost.budget import nearest


@dataclass(frozen=True)
class Limits:
    """What a technique must keep to; None is no limit."""

    trainable: int | None = None
    no_inference_overhead: bool = False
    memory_bytes: int | None = None

    def words(self) -> str:
        """The limits in words."""
        parts = [f"at most {self.trainable:,} trainable parameters" if self.trainable is not None else ""]
        parts.append("nothing extra at inference" if self.no_inference_overhead else "")
        parts.append(f"{_gigabytes(self.memory_bytes)} for training" if self.memory_bytes is not None else "")
        return ", ".join(part for part in parts if part) or "none"

    def broken(self, cost: Cost, smallest: bool = False) -> tuple[str, ...]:
        """The limits that a cost breaks, in words."""
        found = []
        if self.trainable is not None and cost.trainable > self.trainable:
            found.append(f"trains {cost.trainable:,} parameters" + (" at its smallest" if smallest else ""))
        if self.no_inference_overhead and cost.stays:
            found.append(f"does not merge: {cost.stays[0]}")
        if self.memory_bytes is not None and cost.least_memory > self.memory_bytes:
            found.append(f"needs at least {_gigabytes(cost.least_memory)} before activations")
        return tuple(found)


@dataclass(frozen=True)
class Candidate:
    """A configuration of a technique with what it costs on the backbone."""

    name: str
    """The technique, or ``technique:preset``."""
    options: dict[str, Any]
    """What to set; everything else is as it is by default."""
    spec: ConfiguredTechnique
    cost: Cost
    total: int
    """The backbone's parameters."""
    sized: str = ""
    """What was changed to keep the budget, in words."""
    problems: tuple[str, ...] = ()
    """The limits that it breaks."""

    @property
    def settings(self) -> str:
        """The options to set, in words."""
        return ", ".join(f"{name} {value}" for name, value in self.options.items() if name != "preset")

    def reasons(self) -> list[str]:
        """What follows from its structure, in words."""
        cost = self.cost
        share = 100 * cost.trainable / max(1, self.total)
        found = [f"trains {cost.trainable:,} parameters ({share:.3g}% of the backbone's){self.sized}"]
        if cost.stays:
            found.append(f"stays attached at inference: {cost.stays[0]}")
        else:
            found.append("merges exactly: nothing extra at inference")
        found.append(f"training holds at least {_gigabytes(cost.least_memory)}, before activations")
        return found


def candidates(backbone: Backbone, limits: Limits) -> tuple[list[Candidate], dict[str, str]]:
    """Every technique and preset that works on the backbone, and why the others do not.

    One that trains too much is made smaller by its size option, as far as that goes; what it cannot keep even so is in
    its ``problems``.
    """
    found: list[Candidate] = []
    impossible: dict[str, str] = {}
    for named in naming.variants(backbone.registry, alike=True):
        try:
            found.append(_within(backbone, named.label, limits))
        except (RefarchError, ValueError) as error:
            message = error.message if isinstance(error, RefarchError) else str(error)
            impossible[named.label] = " ".join(message.split())
    return found, impossible


def measured(name: str, spec: ConfiguredTechnique, backbone: Backbone, limits: Limits) -> Candidate | None:
    """A configuration that evidence is about; None where it cannot be attached to the backbone."""
    try:
        cost = backbone.cost(spec)
    except (RefarchError, ValueError):
        return None
    options = chosen(name, spec, backbone.registry)
    return Candidate(name, options, spec, cost, backbone.total, problems=limits.broken(cost))


def chosen(name: str, spec: ConfiguredTechnique, registry: Registry) -> dict[str, Any]:
    """The options that turn what ``name`` alone gives into a configured technique; also preset, slots and layers."""
    plain = naming.parse(name, registry).technique
    _, options = naming.split(name)
    options |= {key: value for key, value in spec.options.items() if value != plain.options.get(key)}
    own = {module.name: module for module in plain.technique.modules}
    modules = [module for module in spec.technique.modules if module.name in own]
    slots = {m.name: list(m.workspace) for m in modules if set(m.slot_refs()) != set(own[m.name].slot_refs())}
    layers = [m.layers.model_dump(exclude_none=True) for m in modules if m.layers != own[m.name].layers]
    if slots:
        options["slots"] = slots if len(modules) > 1 else next(iter(slots.values()))
    if layers:
        options["layers"] = layers[0]
    return options


def _within(backbone: Backbone, name: str, limits: Limits) -> Candidate:
    """The technique at its own size, or at the largest smaller one that keeps the budget."""
    technique = backbone.registry.technique(name.partition(":")[0])
    _, options = naming.split(name)

    def at(extra: Mapping[str, Any], words: str = "") -> Candidate:
        spec = technique.configure({**options, **extra})
        return Candidate(name, {**options, **extra}, spec, backbone.cost(spec), backbone.total, words)

    found, smallest, most = at({}), False, limits.trainable
    if most is not None and found.cost.trainable > most:
        solved = nearest(technique, options, lambda choice: at(choice).cost.trainable, most, at_most=True)
        if solved.option is not None:
            smallest = solved.parameters > most
            words = "" if smallest else f", with {solved.option} {solved.value} to keep the budget"
            found = at({solved.option: solved.value}, words)
    return dataclasses.replace(found, problems=limits.broken(found.cost, smallest))


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
