"""Selection: existing parameters trained in a copy that takes their place; the base's own stay untouched aside.

Tied parameters are found by identity, so that a copy takes every place of its original. Several adaptations may select
one parameter: each copies what the one before it has, and the last enabled one is in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from refarch.architecture import ModuleSpec
from refarch.engine.bindings.owner import Owner
from refarch.engine.layers.quantised import quantised_as
from refarch.engine.slots.site import Site
from refarch.errors import SlotError

HOST = "refarch"
"""The child of a model that carries what is attached."""


class Selected:
    """One base parameter and the copies that adaptations train of it."""

    def __init__(self, model: nn.Module, original: nn.Parameter) -> None:
        self.model, self.original = model, original
        self.places = [
            (module, name)
            for _, module in own_modules(model)
            for name, parameter in module._parameters.items()
            if parameter is original
        ]
        self.copies: list[tuple[Owner, nn.Parameter]] = []
        self.current = original

    def add(self, owner: Owner, copy: nn.Parameter | None = None) -> nn.Parameter:
        """A trainable copy for ``owner``, or the one that it has already; [same shape]."""
        copy = nn.Parameter(self.current.detach().clone()) if copy is None else copy
        self.copies.append((owner, copy))
        self.refresh()
        return copy

    def drop(self, owner: Owner) -> None:
        """Forget ``owner``'s copy."""
        self.copies = [(other, copy) for other, copy in self.copies if other is not owner]
        self.refresh()

    def refresh(self) -> None:
        """Put the last enabled copy, or the original, in all places."""
        before = self.current
        self.current = next((copy for owner, copy in reversed(self.copies) if owner.active), self.original)
        # What was aside while the model moved to another device or dtype follows now.
        self.current.data = self.current.data.to(device=before.device, dtype=before.dtype)
        for module, name in self.places:
            module._parameters[name] = self.current


def select(model: nn.Module, spec: ModuleSpec, sites: list[Site], heads: Sequence[str]) -> dict[str, nn.Parameter]:
    """The base parameters that a selection asks for, by their path in the model. Nothing is changed yet.

    Args:
        model: the model.
        spec: the module spec.
        sites: where it works.
        heads: paths of the modules of the model's head.

    Raises:
        SlotError: a site has none of the named parameters anywhere, or a selection of the whole model finds them in the
            head alone.
    """
    _check_parts(spec, sites)
    names = base_names(model)
    found: dict[str, nn.Parameter] = {}
    for module in dict.fromkeys(site.end.module for site in sites):
        for _, parameter in module.named_parameters():
            name = names.get(id(parameter))
            if name is not None and ("*" in spec.parameters or name.rpartition(".")[2] in spec.parameters):
                found[name] = parameter
    _check_values(spec, found)
    if not found:
        places = ", ".join(site.address for site in sites[:6])
        raise SlotError(
            f"module {spec.name!r} selects {', '.join(spec.parameters)}, but there is no such parameter at {places}",
            "choose other slots, or another technique for this backbone",
        )
    head = tuple(f"{path}." for path in heads)
    if sites[0].ref.slot.kind == "model" and all(name.startswith(head) for name in found):
        raise SlotError(
            f"module {spec.name!r} selects {', '.join(spec.parameters)}, but in this backbone there is no such"
            f" parameter; only the head has {', '.join(found)}",
            "choose another technique for this backbone",
        )
    return found


def _check_values(spec: ModuleSpec, found: dict[str, nn.Parameter]) -> None:
    """Quantised values stand at steps that no gradient step reaches."""
    kinds = {path: quantised_as(parameter) for path, parameter in found.items()}
    kinds = {path: kind for path, kind in kinds.items() if kind}
    if kinds:
        path = next(iter(kinds))
        raise SlotError(
            f"module {spec.name!r} selects {path}, which is quantised ({kinds[path]}) and cannot be trained"
            + (f", and {len(kinds) - 1} more such parameters" if len(kinds) > 1 else ""),
            "leave what shall train out of the quantisation (modules_to_not_convert of its configuration; in"
            " bitsandbytes' llm_int8_skip_modules), or attach a technique that adds parameters",
        )


def _check_parts(spec: ModuleSpec, sites: list[Site]) -> None:
    """A fused projection has one parameter for all its parts: it is selected for all of them or not at all."""
    chosen: dict[nn.Module, list[Site]] = {}
    for site in sites:
        chosen.setdefault(site.end.module, []).append(site)
    for same in chosen.values():
        part = same[0].end.part
        if part is not None and len({site.end.part for site in same}) < part.of:
            raise SlotError(
                f"module {spec.name!r} selects parameters at {', '.join(site.address for site in same)}, but they"
                f" belong to {same[0].end.path}, one projection of {part.of} parts",
                "choose the slots of all its parts, or another technique for this backbone",
            )


def base_names(model: nn.Module) -> dict[int, str]:
    """Path of each of the base's own parameters (the modules of adaptations left out), by identity of the parameter
    that is in place now.
    """
    found: dict[int, str] = {}
    for path, module in own_modules(model):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found.setdefault(id(parameter), f"{path}.{name}" if path else name)
    return found


def own_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The base's own modules by path. Those of adaptations are not even walked through: they may be many."""
    yield "", model
    for name, child in model.named_children():
        if name != HOST:
            yield from child.named_modules(prefix=name)


def selected(model: nn.Module) -> dict[str, Selected]:
    """The selected parameters of a model by path."""
    store: dict[str, Selected] = getattr(model._modules.get(HOST), "selected_copies", {})
    return store


def put_copies(
    model: nn.Module, owner: Owner, found: dict[str, nn.Parameter], existing: Mapping[str, nn.Parameter] | None = None
) -> dict[str, nn.Parameter]:
    """Make trainable copies, or take the ``existing`` ones, and put them in place; by path."""
    store = selected(model)
    copies = {}
    for name, parameter in found.items():
        if name not in store:
            store[name] = Selected(model, parameter)
        copies[name] = store[name].add(owner, (existing or {}).get(name))
    return copies


def release(model: nn.Module, owner: Owner) -> None:
    """Give all places of ``owner``'s copies back."""
    store = selected(model)
    for name in list(store):
        store[name].drop(owner)
        if not store[name].copies:
            del store[name]


def reorder(model: nn.Module, order: Sequence[Owner]) -> None:
    """Let the copies of some adaptations take each other's place in a new order; other copies stay where they are.

    Args:
        model: the model.
        order: of the adaptations.
    """
    ranks = {id(owner): rank for rank, owner in enumerate(order)}
    for item in selected(model).values():
        places = [place for place, (owner, _) in enumerate(item.copies) if id(owner) in ranks]
        own = sorted((item.copies[place] for place in places), key=lambda pair: ranks[id(pair[0])])
        for place, pair in zip(places, own, strict=True):
            item.copies[place] = pair
        item.refresh()


def refresh(model: nn.Module) -> None:
    """After adaptations were enabled or disabled."""
    for item in selected(model).values():
        item.refresh()


@torch.no_grad()
def commit(model: nn.Module, owner: Owner) -> dict[str, torch.Tensor]:
    """Write ``owner``'s copies into the originals; returns what stood there before, by path."""
    before = {}
    for name, item in selected(model).items():
        for other, copy in item.copies:
            if other is owner:
                before[name] = item.original.detach().clone()
                item.original.copy_(copy)
    return before
