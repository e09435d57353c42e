"""Which tensor of a saved module stands at which tensor of the same technique on another backbone.

Names of tensors spell slots, so a module is moved from slot to slot. Where the backbones have different numbers of
layers, layers are matched by depth: of T target layers at which the module works, the j-th gets what the module has at
the round(j (S - 1) / (T - 1))-th of its S own, so that the first and the last stay the first and the last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from refarch import Adaptation, FamilySpec
from refarch.engine import Checkpoint
from refarch.errors import CheckpointError

BASE = "base:"
"""How the names of selected copies of base parameters begin."""


def by_depth(source: Iterable[int], target: Iterable[int]) -> dict[int, int]:
    """For each target layer the source layer of like depth."""
    own, other = sorted(set(target)), sorted(set(source))
    if len(own) == 1:
        return {own[0]: other[-1] if len(other) > 1 and own[0] else other[0]}
    steps = (len(other) - 1) / (len(own) - 1)
    return {layer: other[int(place * steps + 0.5)] for place, layer in enumerate(own)}


@dataclass
class Match:
    """How a saved module stands on another backbone.

    Attributes:
        tensors: each of the target's tensors to the saved one that it gets.
        layers: by stack of the target, each layer to the saved module's.
        new: the target's tensors that get none: a head of other labels, or of another form.
        head: those of the target's tensors that are a head's and get one.
    """

    tensors: dict[str, str] = field(default_factory=dict)
    layers: dict[str, dict[int, int]] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    head: list[str] = field(default_factory=list)


class Matcher:
    """Matches one saved module with the same technique on a target.

    Args:
        saved: what the module says about itself.
        adaptation: the technique on the target, attached.
        family: the saved module's backbone family.

    Raises:
        CheckpointError: the target has a stack that the module does not say anything about.
    """

    def __init__(self, saved: Checkpoint, adaptation: Adaptation, family: FamilySpec) -> None:
        self.saved, self.adaptation, self.family = saved, adaptation, family
        self.shapes = {name: tuple(shape) for name, shape in saved.shapes.items()}
        self.stacks = self._stacks()
        self.layers = {
            (spec, stack): by_depth(self._layers(saved.slot_map, spec, self.stacks[stack]), layers)
            for (spec, stack), layers in self._all_layers(adaptation.slot_map).items()
        }

    def match(self) -> Match:
        """The whole match.

        Raises:
            CheckpointError: a slot is missing there, or widths differ; names what differs.
        """
        found, wrong = Match(), list[str]()
        heads = self._heads()
        for name, tensor in self.adaptation.state_dict().items():
            if name in heads:
                if heads[name] is None:
                    found.new.append(name)
                else:
                    found.tensors[name] = str(heads[name])
                    found.head.append(name)
                continue
            source = self._base(name) if name.startswith(BASE) else self.module(name)
            shape = tuple(tensor.shape)
            if source not in self.shapes:
                wrong.append(f"{name} has no counterpart" + (f" ({source} is not there)" if source else ""))
            elif self.shapes[source] != shape:
                wrong.append(f"{name} is {shape} here, and {source} {self.shapes[source]}")
            else:
                found.tensors[name] = source
        if wrong:
            more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
            where = type(self.adaptation.model).__name__
            raise CheckpointError(
                f"{self.saved.name!r} does not fit {where}: {'; '.join(wrong[:4])}{more}",
                "a module can be moved to a backbone that has its slots in the same widths",
            )
        for (_, stack), layers in self.layers.items():
            found.layers.setdefault(stack, {}).update(layers)
        return found

    def _stacks(self) -> dict[str, str]:
        """The saved module's stack for each of the target's: of the same name, or the only one."""
        here = {stack for _, stack in self._all_layers(self.adaptation.slot_map)}
        there = {stack for _, stack in self._all_layers(self.saved.slot_map)}
        if here <= there:
            return {stack: stack for stack in here}
        if len(here) == len(there) == 1:
            return {here.pop(): there.pop()}
        raise CheckpointError(
            f"{self.saved.name!r} works in {' and '.join(sorted(there)) or 'no stack'}, and on this backbone it would"
            f" work in {' and '.join(sorted(here))}",
            "choose a backbone of the same kind",
        )

    def module(self, name: str) -> str | None:
        """The saved counterpart of a function's or gate's tensor, by name."""
        owner, _, path = name.partition(".")
        spec = owner.removesuffix("-gate")
        addresses = [a.removeprefix(f"{spec}.") for a in self.adaptation.slot_map if a.startswith(f"{spec}.")]
        own = max((a for a in addresses if path.startswith(f"{a}.")), key=len, default=None)
        return None if own is None else f"{owner}.{self._address(spec, own)}{path[len(own) :]}"

    def _address(self, spec: str, address: str) -> str:
        """The saved module's address for one of the target's."""
        stack, _, rest = address.partition(".")
        layer, _, slot = rest.partition(".")
        if not layer.isdigit():
            return address
        there = self.layers[spec, stack][int(layer)]
        return f"{self.stacks[stack]}.{there}" + (f".{slot}" if slot else "")

    def _base(self, name: str) -> str | None:
        """The saved counterpart of a selected parameter: the one that has its name at the matched slot."""
        path = name.removeprefix(BASE)
        places = [(own, at) for at, own in self.adaptation.slot_map.items() if own and path.startswith(f"{own}.")]
        if not places:
            return self._whole(name)
        own, at = max(places, key=lambda place: len(place[0]))
        spec, _, address = at.partition(".")
        there = self.saved.slot_map.get(f"{spec}.{self._address(spec, address)}")
        return None if there is None else f"{BASE}{there}{path[len(own) :]}"

    def _whole(self, name: str) -> str | None:
        """Of a selection in the whole model: the same name, with the layer matched among all layers of its stack. Only
        within one family do names mean the same.
        """
        if self.family.name != self.adaptation.family.name:
            return None
        for stack in self.family.stacks:
            pattern = re.compile(rf"\b{re.escape(stack.layers).replace(re.escape('{}'), '([0-9]+)')}\.")
            here = pattern.search(name)
            if here is None:
                continue
            there = {int(found[1]) for other in self.shapes if (found := pattern.search(other))}
            count = self.adaptation.resolver.counts[stack.name]
            layer = by_depth(there, range(count)).get(int(here[1])) if there else None
            return None if layer is None else f"{name[: here.start(1)]}{layer}{name[here.end(1) :]}"
        return name

    def _heads(self) -> dict[str, str | None]:
        """The saved counterpart of each tensor of a head that trains along; None where it has another form."""
        heads = tuple(f"{BASE}{place.path}." for place in self.adaptation.resolver.head())
        own = [name for name in self.adaptation.state_dict() if name.startswith(heads)]
        slots = [path for path in self.saved.slot_map.values() if path]
        there = [n for n in self.shapes if n.startswith(BASE) and not n.removeprefix(BASE).startswith(tuple(slots))]
        shapes = {name: tuple(tensor.shape) for name, tensor in self.adaptation.state_dict().items()}
        same = {name: name if self.shapes.get(name) == shapes[name] else None for name in own}
        if all(same.values()) or len(own) != len(there):
            return dict.fromkeys(own) if not all(same.values()) else dict(same)
        alike = all(shapes[a] == self.shapes[b] for a, b in zip(own, there, strict=True))
        return dict(zip(own, there, strict=True)) if alike else dict.fromkeys(own)

    @staticmethod
    def _layers(slot_map: Mapping[str, str], spec: str, stack: str) -> set[int]:
        return Matcher._all_layers(slot_map).get((spec, stack), set())

    @staticmethod
    def _all_layers(slot_map: Mapping[str, str]) -> dict[tuple[str, str], set[int]]:
        """The layers at which each module spec works, by stack."""
        found: dict[tuple[str, str], set[int]] = {}
        for address in slot_map:
            spec, *parts = address.split(".")
            if len(parts) > 1 and parts[1].isdigit():
                found.setdefault((spec, parts[0]), set()).add(int(parts[1]))
        return found
