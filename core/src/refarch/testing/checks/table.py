"""Checks of a backbone family's table: entries, widths, parts of fused projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from refarch.architecture import SLOTS, FamilySpec, Layers, SlotRef, parse_entry
from refarch.engine import Resolver, Site
from refarch.engine.adaptation.attach import attach
from refarch.engine.layers.linear import part_rows, read_weight
from refarch.engine.slots.resolver import find, submodule
from refarch.plugins.discovery import Kind
from refarch.testing import probes
from refarch.testing.case import NotApplicable, collect, randomise
from refarch.testing.checks.plugin import light_import
from refarch.testing.models import Tiny, outputs


@dataclass(frozen=True)
class Backbone:
    """A family's tiny model.

    Attributes:
        tiny: the model.
        name: the installed plugin's name; None for an inline spec.
        uncovered: paths within a layer of linear layers that need no slot.
    """

    tiny: Tiny
    name: str | None = None
    uncovered: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """``bert-AutoModelForMaskedLM``."""
        return f"{self.family.tiny.model_type}-{self.tiny.auto_class}"

    @property
    def plugin(self) -> tuple[Kind, str] | None:
        """The installed plugin that provides the table."""
        return None if self.name is None else ("backbone", self.name)

    @property
    def family(self) -> FamilySpec:
        """The table."""
        return self.tiny.family


def model_types_are_known(case: Backbone) -> None:
    """The installed transformers knows every model type that the table serves, and the tiny model is one of them."""
    family = case.family
    unknown = [kind for kind in family.model_types if kind not in CONFIG_MAPPING]
    assert not unknown, f"family {family.name!r}: transformers knows no model type {', '.join(unknown)}"
    assert family.tiny.model_type in family.model_types, (
        f"the tiny model's type {family.tiny.model_type!r} is none of the model types that the table serves"
    )


def every_entry_exists(case: Backbone) -> None:
    """Every entry that is not marked optional is there, at every layer; so are embedding and head."""
    model = case.tiny.model()
    resolver, family = Resolver(model, case.family), case.family
    assert find(resolver.base, "", family.embedding), (
        f"embedding: there is no {family.embedding!r} below the base model"
    )
    if model.base_model is not model:
        assert resolver.head(), f"head: {type(model).__name__} has none of {family.head!r}"
    there = resolver.available()
    missing = []
    for stack in family.stacks:
        count = resolver.counts[stack.name]
        assert count >= 2, f"the {stack.name} of the tiny model has {count} layers at {stack.layers}; two show more"
        assert submodule(resolver.base, stack.module), f"stack {stack.name}: there is no module {stack.module!r}"
        for name, entry in stack.slots.items():
            if parse_entry(entry).optional:
                continue
            for path in resolver.paths[stack.name]:
                if find(resolver.base, path, entry) is None:
                    missing.append(f"{path}: {name} = {entry!r}")
        norm = stack.final_norm
        if norm and not parse_entry(norm).optional and find(resolver.base, "", norm) is None:
            missing.append(f"final_norm = {stack.final_norm!r}")
    assert not missing, f"not on {type(model).__name__}: {'; '.join(missing[:5])}. Optional entries end with '?'"
    assert "inputs" in there and "embedding" in there, "the slots 'inputs' and 'embedding' do not resolve"


def head_is_complete(case: Backbone) -> None:
    """Every parameter outside of the base model belongs to the head, which a new task trains and saves as a whole."""
    model = case.tiny.model()
    if model.base_model is model:
        raise NotApplicable(f"{type(model).__name__} is its own base model")
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    head = tuple(f"{place.path}." for place in Resolver(model, case.family).head())
    left = [name for name, p in model.named_parameters() if id(p) not in inside and not name.startswith(head)]
    assert not left, (
        f"head = {case.family.head!r} leaves {', '.join(left[:5])} of {type(model).__name__} out; join the paths with +"
    )


def widths_agree(case: Backbone) -> None:
    """The widths read from the modules are those of the activations that pass through them."""
    model = case.tiny.model()
    resolver = Resolver(model, case.family)
    seen = _record(model, [site.end.module for sites in resolver.available().values() for site in sites])
    outputs(model, case.tiny.batch(model))
    for name, sites in resolver.available().items():
        for site in sites:
            kind = SLOTS[name].kind
            got = seen.get(site.end.module)
            assert got is not None, f"{site.address}: {site.end.path} takes no part in a forward pass"
            if kind in ("inputs", "embedding", "key_value"):
                continue
            read, written = got
            own = site.end.part.width(written) if site.end.part else written
            assert own == site.shape.d_out, (
                f"{site.address}: {site.end.path} returns width {own}, the table says {site.shape.d_out}"
            )
            if kind in ("linear", "norm"):
                d_in = site.shape.d_in
                assert read == d_in, f"{site.address}: {site.end.path} reads width {read}, the table says {d_in}"


def parts_touch_only_their_own(case: Backbone) -> None:
    """A module at one linear slot changes that projection's own features only; merging, its own rows only."""
    resolver = Resolver(case.tiny.model(), case.family)
    for name, sites in resolver.available().items():
        if SLOTS[name].kind != "linear":
            continue
        model = case.tiny.model()
        stacks = tuple(dict.fromkeys(site.stack.name for site in sites if site.stack))
        layers = Layers(first=1, stacks=stacks).model_dump()
        batch, found = case.tiny.batch(model), Resolver(model, case.family)
        own = found.resolve([SlotRef(SLOTS[name], "output")], Layers(first=1, stacks=stacks))
        for site in own[:1]:
            before, weight = _first_output(model, site, batch), read_weight(site.end.module).clone()
            adaptation = attach(model, probes.LINE, family=case.family, slots=[name], layers=layers)
            randomise(adaptation)
            rows = part_rows(before.shape[-1], site.end.part)
            changed = (_first_output(model, site, batch) - before).abs().amax(dim=tuple(range(before.ndim - 1))) > 0
            _only(changed, rows, f"{site.address} ({site.end.path}): a module there changes output features")
            adaptation.merge()
            moved = (read_weight(site.end.module) - weight).abs().amax(dim=1) > 0
            _only(moved, rows, f"{site.address} ({site.end.path}): merging a module there changes weight rows")


def linear_layers_are_named(case: Backbone) -> None:
    """Every linear layer of a transformer layer is named by a slot; every part of a fused one too.

    Weights of more than two dimensions (fused experts) are no linear layers; the table says why they are unreachable.
    """
    model = case.tiny.model()
    resolver = Resolver(model, case.family)
    named: dict[nn.Module, list[Site]] = {}
    for name, sites in resolver.available().items():
        for site in sites if SLOTS[name].kind == "linear" else ():
            named.setdefault(site.end.module, []).append(site)
    left = set()
    for stack in resolver.stacks:
        layer = submodule(resolver.base, resolver.paths[stack.name][0])
        assert layer is not None
        for path, module in layer.named_modules():
            if isinstance(module, (nn.Linear, Conv1D)) and path not in case.uncovered:
                sites = named.get(module, [])
                if not sites:
                    left.add(f"{stack.name}: {path}")
                elif sites[0].end.part and len({site.end.part for site in sites}) < sites[0].end.part.of:
                    left.add(f"{stack.name}: a part of {path}")
            stacked = any(parameter.ndim > 2 for parameter in module.parameters(recurse=False))
            if stacked and path not in case.uncovered and not stack.unreachable:
                left.add(f"{stack.name}: the stacked weights of {path} (which need a reason in 'unreachable')")
    assert not left, f"no slot names {', '.join(sorted(left))}; add a slot, or list the path in 'uncovered'"


def norms_are_named(case: Backbone) -> None:
    """Every norm of a transformer layer that has parameters is named by a slot."""
    model = case.tiny.model()
    resolver = Resolver(model, case.family)
    named = {
        site.end.module for name, sites in resolver.available().items() for site in sites if SLOTS[name].kind == "norm"
    }
    left = []
    for stack in resolver.stacks:
        layer = submodule(resolver.base, resolver.paths[stack.name][0])
        assert layer is not None
        for path, module in layer.named_modules():
            norm = type(module).__name__.endswith("Norm") and any(True for _ in module.parameters(recurse=False))
            if norm and module not in named and path not in case.uncovered:
                left.append(f"{stack.name}: {path}")
    assert not left, f"no slot names {', '.join(left)}; add a slot, or list the path in 'uncovered'"


def _record(model: nn.Module, modules: list[nn.Module]) -> dict[nn.Module, tuple[int, int]]:
    """Widths (read, returned) by module, filled in by the next forward pass."""
    seen: dict[nn.Module, tuple[int, int]] = {}

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        read = next((value for value in [*args, *kwargs.values()] if isinstance(value, Tensor)), None)
        first = output[0] if isinstance(output, tuple) else output
        width = first.shape[-1] if isinstance(first, Tensor) else 0
        seen[module] = (read.shape[-1] if read is not None else 0, width)

    for module in dict.fromkeys(modules):
        module.register_forward_hook(note, with_kwargs=True)
    return seen


def _first_output(model: Any, site: Site, batch: dict[str, Tensor]) -> Tensor:
    """What the site's module returns, [b, t, width]."""
    held: list[Tensor] = []
    handle = site.end.module.register_forward_hook(lambda module, args, output: held.append(output.detach()))
    outputs(model, batch)
    handle.remove()
    return held[0]


def _only(changed: Tensor, rows: Tensor, what: str) -> None:
    inside = torch.zeros_like(changed)
    inside[rows] = True
    outside = (changed & ~inside).nonzero().flatten().tolist()
    own = f"{len(rows)} within {int(rows[0])} to {int(rows[-1])}"
    assert not outside, f"{what} {outside[:5]}, outside of its own {own}"
    assert bool(changed[rows].any()), f"{what}, but none of its own {own}"


ONCE = collect(light_import, model_types_are_known, once=True)
CHECKS = collect(
    every_entry_exists,
    head_is_complete,
    widths_agree,
    linear_layers_are_named,
    norms_are_named,
    parts_touch_only_their_own,
)
