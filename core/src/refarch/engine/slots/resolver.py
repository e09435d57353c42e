"""Resolve slots: from a family's table and a workspace to the modules of one model, all or an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from refarch.architecture import FamilySpec, Layers, SlotRef, StackTable, parse_entry
from refarch.architecture.family import FusedPart, parse_head
from refarch.architecture.slots import SLOTS
from refarch.engine.functions.function import SlotShape
from refarch.engine.layers.linear import matrix, take_part, widths
from refarch.engine.layers.quantised import dequantised, quantised
from refarch.engine.slots.site import InputStack, Place, Site
from refarch.errors import SlotError, nearest


def submodule(root: nn.Module, path: str) -> nn.Module | None:
    """The module at a dotted path, or None. An empty path is the root itself."""
    current: nn.Module | None = root
    for name in path.split(".") if path else ():
        current = getattr(current, "_modules", {}).get(name)
        if current is None:
            return None
    return current


def find(root: nn.Module, prefix: str, text: str) -> Place | None:
    """The first alternative of a table entry that exists below ``prefix``."""
    for entry in parse_entry(text).entries:
        path = f"{prefix}.{entry.path}" if prefix else entry.path
        module = submodule(root, path)
        if module is not None:
            return Place(path, module, entry.part.resolve(_configured(root, text)) if entry.part else None)
    return None


def _configured(root: nn.Module, entry: str) -> Callable[[str], int]:
    """Reads the values of a model's configuration that a table entry names."""
    config = getattr(root, "config", None)

    def value(name: str) -> int:
        found = getattr(config, name, None)
        if not isinstance(found, int) or found < 1:
            raise SlotError(
                f"table entry {entry!r}: {type(config).__name__} has no number {name!r} (it is {found!r})",
                "is the family's table right?",
            )
        return found

    return value


def layer_paths(base: nn.Module, stack: StackTable) -> list[str]:
    """The paths of a stack's layers in the order of the lists that hold them; none if the model has no such stack."""
    paths = [""]
    for segment in stack.layers.split(".{}")[:-1]:
        lists = {f"{path}{segment}": submodule(base, f"{path}{segment}") for path in paths}
        paths = [
            f"{at}.{i}" for at, found in lists.items() if isinstance(found, nn.ModuleList) for i in range(len(found))
        ]
    return paths


class Resolver:
    """Finds the sites of one model.

    Args:
        model: a transformers model, with or without a head.
        family: the table that fits it.
    """

    def __init__(self, model: PreTrainedModel, family: FamilySpec) -> None:
        self.model = model
        self.base: nn.Module = model.base_model
        self.family = family
        self.paths = {stack.name: layer_paths(self.base, stack) for stack in family.stacks}
        self.counts = {name: len(paths) for name, paths in self.paths.items()}
        self.stacks = [stack for stack in family.stacks if self.counts[stack.name]]
        if not self.stacks:
            paths = ", ".join(stack.layers for stack in family.stacks)
            raise SlotError(
                f"family {family.name!r} expects layers at {paths}, but {type(model).__name__} has none there",
                "the table and the model do not belong together; see the family's model_types",
            )

    def resolve(self, refs: Sequence[SlotRef], layers: Layers) -> list[Site]:
        """All sites of a workspace.

        Raises:
            SlotError: some slot matches fewer modules than layers were chosen; lists what was asked, what matched,
                what is missing and the nearest slots that are there.
        """
        sites: list[Site] = []
        problems: list[str] = []
        for ref in refs:
            found, missing = self._resolve_one(ref, layers)
            sites += found
            obstacles = self._obstacles(ref, layers)
            problems += [f"slot {str(ref)!r} cannot be reached: {reason}" for reason in obstacles]
            if obstacles:
                continue
            if missing and (found or not ref.optional):
                problems.append(f"slot {str(ref)!r}: matched {len(found)}, missing at {', '.join(missing)}")
            problems += [f"slot {str(ref)!r}: {reason}" for reason in _shared(found)]
        if not sites and not problems:
            problems.append(f"none of the slots {', '.join(str(ref) for ref in refs)} is there")
        if problems:
            there = [name for name in SLOTS if not self._resolve_one(SlotRef(SLOTS[name], "output"), Layers())[1]]
            asked = [str(ref) for ref in refs]
            near = {n for ref in refs for n in nearest(str(ref), there) if n not in asked} or set(there)
            raise SlotError(
                f"family {self.family.name!r} on {type(self.model).__name__}: " + "; ".join(problems),
                f"nearest slots that are there: {', '.join(sorted(near))}",
            )
        return sites

    def available(self) -> dict[str, list[Site]]:
        """Every slot of the vocabulary that this model has at all layers of some stack, with its sites."""
        result = {}
        for name, slot in SLOTS.items():
            if slot.kind in ("head", "model"):
                continue
            sites, missing = self._resolve_one(SlotRef(slot, "output"), Layers())
            if sites and not missing:
                result[name] = sites
        return result

    def head(self) -> list[Place]:
        """The modules of the task head; empty if the model has none."""
        for paths in parse_head(self.family.head):
            found = [(path, submodule(self.model, path)) for path in paths]
            places = [Place(path, module) for path, module in found if module is not None]
            if len(places) == len(paths):
                return places
        return []

    def _resolve_one(self, ref: SlotRef, layers: Layers) -> tuple[list[Site], list[str]]:
        if ref.slot.name == "head":
            head = self.head()
            return [self._head_site(ref, place, len(head)) for place in head], [] if head else ["the model"]
        if ref.slot.per == "model":
            site = self._model_site(ref)
            found = [*([site] if site else []), *self._embedding_norms(ref, layers)]
            return found, [] if found else ["the model"]
        stacks = [stack for stack in self.stacks if not layers.stacks or stack.name in layers.stacks]
        if not stacks:
            return [], [f"stacks {', '.join(layers.stacks or ())} (there are {', '.join(s.name for s in self.stacks)})"]
        tables = [stack for stack in stacks if self._declares(stack, ref)]
        if not tables:
            return [], [f"the table of the {' and the '.join(stack.name for stack in stacks)}"]
        sites, missing = [], []
        for stack in tables:
            if ref.slot.per == "stack":
                indices: list[int | None] = [None]
            else:
                try:
                    indices = list(layers.choose(self.counts[stack.name]))
                except ValueError as error:
                    raise SlotError(str(error)) from None
            for index in indices:
                if index is not None and self._has_nothing(ref, stack, index):
                    continue
                site = self._site(ref, stack, index)
                if site is None:
                    missing.append(_address(stack, index, ref))
                else:
                    sites.append(site)
        return sites, missing

    def _obstacles(self, ref: SlotRef, layers: Layers) -> list[str]:
        """The reasons that the tables of the chosen stacks give for not reaching a slot, each once."""
        chosen = [stack for stack in self.stacks if not layers.stacks or stack.name in layers.stacks]
        return list(dict.fromkeys(filter(None, (stack.obstacle(ref.slot.name) for stack in chosen))))

    def _declares(self, stack: StackTable, ref: SlotRef) -> bool:
        slot = ref.slot
        if _by_leaves(ref, stack):
            return slot.reads_at in stack.slots and slot.ends_at in stack.slots
        if slot.name == "final_norm":
            return stack.final_norm is not None
        return slot.kind == "layer" or slot.name in stack.slots

    def _has_nothing(self, ref: SlotRef, stack: StackTable, index: int) -> bool:
        """Whether the architecture itself says that a layer has nothing at a slot."""
        end = self._end(ref, stack, self.paths[stack.name][index])
        return end is not None and isinstance(end.module, nn.Identity)

    def _head_site(self, ref: SlotRef, place: Place, of: int) -> Site:
        address = "head" if of == 1 else f"head.{place.path.replace('.', '_')}"
        return Site(address, ref, place, self._shape(ref, place, (0, 0)))

    def _embedding_norms(self, ref: SlotRef, layers: Layers) -> list[Site]:
        """The norms of embedded inputs that stacks have beside the family's."""
        sites = []
        for stack in self.stacks if ref.slot.name == "embedding_norm" else ():
            norm = find(self.base, "", stack.embedding_norm) if stack.embedding_norm else None
            if norm is not None and (not layers.stacks or stack.name in layers.stacks):
                shape = self._shape(ref, norm, widths(norm.module), stack)
                sites.append(
                    Site(_address(stack, None, ref), ref, norm, shape, None, stack, stack_module=self._runs(stack))
                )
        return sites

    def _model_site(self, ref: SlotRef) -> Site | None:
        embedding = find(self.base, "", self.family.embedding)
        if ref.slot.name == "model":
            return Site("model", ref, Place("", self.model), self._shape(ref, None, (0, 0)))
        if ref.slot.name == "embedding_norm":
            entry = self.family.embedding_norm
            norm = find(self.base, "", entry) if entry else None
            return Site("embedding_norm", ref, norm, self._shape(ref, norm, widths(norm.module))) if norm else None
        if embedding is None:
            return None
        width = widths(embedding.module)
        if ref.slot.name == "inputs":
            module = self._runs(self.stacks[0])
            if module is None:
                return None
            place, shape = Place(self.stacks[0].module, module), self._shape(ref, embedding, width)
            return Site("inputs", ref, place, shape, embedding, inputs=self._input_stack(embedding.module))
        return Site("embedding", ref, embedding, self._shape(ref, embedding, width))

    def _site(self, ref: SlotRef, stack: StackTable, index: int | None) -> Site | None:
        if ref.slot.name == "final_norm":
            assert stack.final_norm is not None
            end, prefix = find(self.base, "", stack.final_norm), ""
        else:
            assert index is not None
            prefix = self.paths[stack.name][index]
            end = self._end(ref, stack, prefix)
        if end is None:
            return None
        of_keys = ref.slot.kind == "key_value"
        first = ref.slot.reads_at if _by_leaves(ref, stack) else _beside(ref, "query") if of_keys else ""
        entry = find(self.base, prefix, stack.slots[first]) if first in stack.slots else None
        if entry is None and _by_leaves(ref, stack):
            return None
        width = self._widths(ref, stack, prefix, end, entry)
        if width is None:
            return None
        shape = self._shape(ref, end, width, stack, index)
        projections = self._projections(ref, stack, prefix) if of_keys else ()
        bias = submodule(self.base, stack.position_bias) if of_keys and stack.position_bias else None
        return Site(
            _address(stack, index, ref),
            ref,
            end,
            shape,
            entry,
            stack,
            projections,
            position_bias=bias,
            stack_module=self._runs(stack),
        )

    def _runs(self, stack: StackTable) -> nn.Module | None:
        """The module that runs a stack."""
        return submodule(self.base, stack.module)

    def _input_stack(self, embedding: nn.Module) -> InputStack:
        """What belongs to the first stack, before whose inputs tokens are put."""
        table, others = self.stacks[0], self.stacks[1:]
        after_padding = table.positions == "after padding"
        return InputStack(
            embedding,
            decoder=self._runs(others[0]) if others else None,
            body=submodule(self.base, table.body) if table.body else None,
            first=int(self.model.config.pad_token_id) + 1 if after_padding else 0,
            causal=table.name == "decoder",
        )

    def _projections(self, ref: SlotRef, stack: StackTable, prefix: str) -> tuple[Place, ...]:
        """The modules that make keys and values; empty where the table does not name both."""
        names = [_beside(ref, part) for part in ("key", "value")]
        found = [find(self.base, prefix, stack.slots[name]) if name in stack.slots else None for name in names]
        return tuple(place for place in found if place is not None) if None not in found else ()

    def _end(self, ref: SlotRef, stack: StackTable, prefix: str) -> Place | None:
        if ref.slot.kind == "layer":
            module = submodule(self.base, prefix)
            return Place(prefix, module) if module is not None else None
        name = ref.slot.ends_at if _by_leaves(ref, stack) else ref.slot.name
        return find(self.base, prefix, stack.slots[name])

    def _widths(
        self, ref: SlotRef, stack: StackTable, prefix: str, end: Place, entry: Place | None
    ) -> tuple[int, int] | None:
        if ref.slot.kind == "key_value":
            kind = _beside(ref, "key")  # whose output the prefix stands beside
            key = find(self.base, prefix, stack.slots[kind]) if kind in stack.slots else None
            if key is None:
                return None
            d_in, d_out = widths(key.module)
            return d_in, _own_width(key, d_out)
        if ref.slot.kind == "layer" or (ref.slot.kind == "sublayer" and entry is None):
            output = stack.slots.get("attention.output")  # a table without it has no width for a layer's state
            last = find(self.base, prefix, output) if output else None
            return (widths(last.module)[1],) * 2 if last else None  # type: ignore[return-value]
        d_in, d_out = widths(end.module)
        return (widths(entry.module)[0] if entry else d_in), _own_width(end, d_out)

    def _shape(
        self,
        ref: SlotRef,
        place: Place | None,
        width: tuple[int, int],
        stack: StackTable | None = None,
        index: int | None = None,
    ) -> SlotShape:
        def weight() -> Tensor:
            assert place is not None
            table = place.module if isinstance(place.module, nn.Embedding) else None
            if getattr(place.module.weight, "is_meta", False):  # an initialisation from zeros has the right shapes
                return torch.zeros(*((table.num_embeddings, table.embedding_dim) if table else reversed(width)))
            if ref.slot.kind == "inputs" and table is not None and type(table).forward is not nn.Embedding.forward:
                words = torch.arange(table.num_embeddings, device=table.weight.device)
                return type(table).forward(table, words).detach().to(torch.float32, copy=True)  # as they are embedded
            own = matrix(place.module) if table is None else dequantised(table) if quantised(table) else table.weight
            rows = take_part(own, place.part, 0).detach()
            return rows.to(torch.float32, copy=True)  # what a function does with a copy does not reach the base

        count = self.counts[stack.name] if stack else 0
        return SlotShape(str(ref), width[0], width[1], index, count, stack.name if stack else None, weight)


def _shared(sites: list[Site]) -> list[str]:
    """Where one module would be adapted several times over, because it serves several of the chosen layers."""
    by_module: dict[tuple[int, FusedPart | None], list[str]] = {}
    for site in sites:
        by_module.setdefault((id(site.end.module), site.end.part), []).append(site.address)
    return [
        f"{' and '.join(same)} are one module; what joins it acts at all of them, so choose one of these layers"
        for same in by_module.values()
        if len(same) > 1
    ]


def _by_leaves(ref: SlotRef, stack: StackTable) -> bool:
    """Whether a slot is a sublayer that goes from one of its leaves to another, and no module that the table names."""
    return ref.slot.kind == "sublayer" and ref.slot.name not in stack.slots


def _own_width(place: Place, d_out: int) -> int:
    """How many of a module's features are its place's own."""
    try:
        return place.part.width(d_out) if place.part else d_out
    except ValueError as error:
        raise SlotError(f"{place.path}: {error}", "is the family's table right?") from None


def _beside(ref: SlotRef, part: str) -> str:
    """The slot of a projection in the same attention: attention.key_value -> attention.query."""
    return f"{ref.slot.name.rpartition('.')[0]}.{part}"


def _address(stack: StackTable, index: int | None, ref: SlotRef) -> str:
    middle = "" if index is None else f"{index}."
    return f"{stack.name}.{middle}{str(ref).replace(':', '_')}"
