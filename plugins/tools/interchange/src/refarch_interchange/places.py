"""Between paths of modules, which other libraries speak of, and slots: on one model, both ways."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel

from refarch import FamilySpec, Layers, Registry
from refarch.architecture import SLOTS
from refarch.engine import Resolver, Site
from refarch.errors import SlotError


class Chosen(NamedTuple):
    """A slot of one layer, on one side, and what is to be the same within a module spec."""

    slot: str
    """As in a workspace: ``ffn.down:input``."""
    site: Site
    value: Hashable = None


class Group(NamedTuple):
    """Slots and layers that one module spec covers."""

    workspace: tuple[str, ...]
    layers: Layers
    value: Any


class Places:
    """The modules of a model, and the slots that they are.

    Args:
        model: a transformers model; adaptations that are on it already are passed over.
        family: its table.

    Attributes:
        modules: by path in the model.
        sites: by path in the model, those that end at the module.
    """

    @classmethod
    def of(cls, model: PreTrainedModel, family: FamilySpec | None, registry: Registry) -> Places:
        """The same, with the table found by the model's type when it is left out."""
        return cls(model, family or registry.family_for(str(model.config.model_type)))

    def __init__(self, model: PreTrainedModel, family: FamilySpec) -> None:
        self.model, self.family = model, family
        named = {path: module for path, module in model.named_modules() if path.split(".")[0] != "refarch"}
        self.modules: dict[str, nn.Module] = named
        self._paths = {id(module): path for path, module in named.items()}
        resolver = Resolver(model, family)
        self._stacks = len(resolver.stacks)
        self.available = resolver.available()
        self.head = [self.path(place.module) for place in resolver.head()]
        self.sites: dict[str, list[tuple[str, Site]]] = {}
        for slot, sites in self.available.items():
            for site in sites:
                if slot != "inputs":
                    self.sites.setdefault(self.path(site.end.module), []).append((slot, site))

    def path(self, module: nn.Module) -> str:
        """Where a module is in the model, the head's prefix included: ``bert.encoder.layer.0.attention.self.query``."""
        return self._paths[id(module)]

    def at(self, path: str, kinds: Sequence[str], what: str) -> list[tuple[str, Site]]:
        """The slots of these kinds that a module is: several, where it is a fused projection.

        Raises:
            SlotError: it is none.
        """
        found = [(slot, site) for slot, site in self.sites.get(path, ()) if SLOTS[slot].kind in kinds]
        if not found:
            there = "is not in the model" if path not in self.modules else "is no slot of this backbone's family"
            raise SlotError(
                f"{what} is at {path}, which {there}",
                "refarch reaches the modules that the family's table names; refarch inspect shows them",
            )
        return found

    def in_head(self, path: str) -> bool:
        """Whether a module or parameter belongs to the task head."""
        return any(path == head or path.startswith(f"{head}.") for head in self.head)

    def groups(self, chosen: Iterable[Chosen]) -> list[Group]:
        """As few module specs as cover exactly these, in the order of the first of each."""
        by_slot: dict[tuple[Any, str], list[Site]] = {}
        for item in chosen:
            by_slot.setdefault((item.value, item.slot), []).append(item.site)
        workspaces: dict[tuple[Any, str], tuple[Layers, list[str]]] = {}
        for (value, slot), sites in by_slot.items():
            for layers in self._layers(slot, sites):
                key = (value, layers.to_json())
                workspaces.setdefault(key, (layers, []))[1].append(slot)
        order = {slot: position for position, slot in enumerate(SLOTS)}
        return [
            Group(tuple(sorted(slots, key=lambda slot: (order[slot.partition(":")[0]], slot))), layers, value)
            for (value, _), (layers, slots) in workspaces.items()
        ]

    def _layers(self, slot: str, sites: list[Site]) -> list[Layers]:
        """The choice of layers that gives these sites; one for each stack where they are not all there are."""
        every = self.available[slot.partition(":")[0]]
        if len({site.address for site in sites}) == len(every):
            return [Layers()]
        stacks: dict[str, set[int]] = {}
        for site in sites:
            indices = stacks.setdefault(site.stack.name if site.stack else "", set())
            if site.shape.layer is not None:
                indices.add(site.shape.layer)
        found = []
        for stack, indices in stacks.items():
            counts = [site.shape.layers for site in every if site.stack and site.stack.name == stack]
            whole = not indices or len(indices) == counts[0]
            choice: dict[str, Any] = {} if whole else {"indices": sorted(indices)}
            if self._stacks > 1:
                choice["stacks"] = [stack]
            found.append(Layers.parse(choice))
        return found


def suffixes(paths: Iterable[str], everything: Iterable[str]) -> list[str]:
    """The shortest ends of paths that name these modules and no others, as a list of targets does."""
    wanted = set(paths)
    ending: dict[str, set[str]] = {}
    for path in everything:
        names = path.split(".")
        for start in range(len(names)):
            ending.setdefault(".".join(names[start:]), set()).add(path)
    found: set[str] = set()
    for path in sorted(wanted):
        names = path.split(".")
        ends = (".".join(names[start:]) for start in reversed(range(len(names))))
        # The whole path may end that of another module; there is no list that leaves that one out.
        found.add(next((end for end in ends if ending[end] <= wanted), path))
    return sorted(found)
