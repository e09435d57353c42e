"""The two ways to get an adaptation: attach a technique to a model, or load a saved one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, overload

import torch
from transformers import PreTrainedModel

from refarch.architecture import ConfiguredTechnique, FamilySpec, TechniqueSpec, parse_slot
from refarch.engine.adaptation import plan as planning
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.bindings.gradients import refuse_without_gradients
from refarch.engine.checkpoints import provenance
from refarch.engine.checkpoints.format import Source
from refarch.engine.host.container import taken_names, unused_name
from refarch.engine.slots.resolver import Resolver
from refarch.errors import CompositionError, SlotError, SpecError, UsageError
from refarch.plugins.registry import Registry, default_registry

Technique = str | TechniqueSpec | ConfiguredTechnique


@overload
def attach(model: PreTrainedModel, technique: Technique, **choices: Any) -> Adaptation: ...
@overload
def attach(model: PreTrainedModel, technique: Sequence[Technique], **choices: Any) -> tuple[Adaptation, ...]: ...
def attach(
    model: PreTrainedModel,
    technique: Technique | Sequence[Technique],
    *,
    name: str | None = None,
    seed: int = 0,
    train_head: bool = False,
    trainable: bool = True,
    dtype: torch.dtype | None = None,
    family: FamilySpec | None = None,
    registry: Registry | None = None,
    _source: Source | None = None,
    **options: Any,
) -> Adaptation | tuple[Adaptation, ...]:
    """Attach a technique to a transformers model, which stays what it is; its base parameters are frozen.

    Args:
        model: the model, with or without a head.
        technique: an installed technique's name, a spec, a spec with its options decided, or a list of these, which are
            attached one after another.
        name: the adaptation's name on the model; the technique's when left out.
        seed: decides the modules' initial values; the global generators are left as they are.
        train_head: train the model's head too (a copy of it; the head itself comes back on detaching).
        trainable: False to attach for inference only.
        dtype: of the new parameters; float32 when left out, which trains well over a bfloat16 base.
        family: a backbone table; found by the model's type among the installed plugins when left out.
        registry: where names are looked up; the installed plugins when left out.
        options: the technique's options, and ``slots``, ``layers``, ``preset``.

    Returns:
        The adaptation, or one for each technique of a list.

    Raises:
        UnknownNameError: no such technique, or no family for this model.
        SpecError: a misspelt option or a wrong value.
        SlotError: a slot is missing on this model. Nothing was changed.
        CompositionError: the base is quantised in a way that lets no gradients through, or that cannot be read where
            the technique reads weights. Nothing was changed.
    """
    if isinstance(technique, Sequence) and not isinstance(technique, str):
        if name is not None or options:
            raise UsageError(
                "a list of techniques takes no name and no options of its own",
                "give configured specs: registry.technique(NAME).configure({...})",
            )
        common: dict[str, Any] = {"seed": seed, "trainable": trainable, "dtype": dtype, "registry": registry}
        done: list[Adaptation] = []
        with ExitStack() as undo:
            for item in technique:
                done.append(attach(model, item, family=family, train_head=train_head and not done, **common))
                undo.callback(done[-1].detach)
            undo.pop_all()
        return tuple(done)
    configured, source = _configured(technique, options, registry, _source)
    _refuse_unheard(configured)
    resolver = Resolver(model, family or family_of(model, registry))
    label = label_for(model, name, configured.name)
    plan = planning.build(resolver, configured, seed, dtype, device_of(model))
    refuse_untrainable(model, plan, trainable)
    return Adaptation(
        model, resolver, plan, name=label, seed=seed, source=source, train_head=train_head, trainable=trainable
    )


def _configured(
    technique: Technique, options: dict[str, Any], registry: Registry | None, known: Source | None
) -> tuple[ConfiguredTechnique, Source]:
    if isinstance(technique, str):
        registry = registry or default_registry()
        found = registry.find("technique", technique)
        spec = registry.technique(technique)
        return spec.configure(options), Source(distribution=found.distribution, version=found.version)
    if isinstance(technique, TechniqueSpec):
        return technique.configure(options), Source()
    if options:
        raise SpecError(f"technique {technique.name!r} has its options decided; {sorted(options)} come too late")
    return technique, known or provenance.source(technique, registry or default_registry())


def _refuse_unheard(technique: ConfiguredTechnique) -> None:
    """Layers that are chosen must restrict something.

    Raises:
        SlotError: no module that they are chosen for works at a slot of layers.
    """
    specs = map(technique.decided, technique.technique.modules)
    slots = [parse_slot(text).slot for spec in specs if spec.layers.narrows for text in spec.workspace]
    if slots and all(slot.per != "layer" for slot in slots):
        names = ", ".join(dict.fromkeys(slot.name for slot in slots))
        raise SlotError(
            f"technique {technique.name!r} works at {names}, which is of no layer, so a choice of layers would change"
            " nothing",
            "leave out layers, or choose slots of layers (slots=)",
        )


def family_of(model: PreTrainedModel, registry: Registry | None) -> FamilySpec:
    """The table of a model's family, by its type, among the installed plugins."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind is None:
        raise UsageError(
            f"{type(model).__name__} is no transformers model", "load one with transformers' from_pretrained"
        )
    return (registry or default_registry()).family_for(str(kind))


def refuse_untrainable(model: PreTrainedModel, plan: planning.Plan, trainable: bool) -> None:
    """A head trains without gradients through what is below it; anything else needs them."""
    if trainable and any(site.ref.slot.kind != "head" for _, site in plan.sites):
        refuse_without_gradients(model)


def label_for(model: PreTrainedModel, name: str | None, default: str) -> str:
    """The name of a new adaptation on a model: the wanted one, or one like the default.

    Raises:
        CompositionError: the wanted one cannot be had.
    """
    if name is None:
        name = unused_name(model, default)
    taken = taken_names(model)
    if not name or "." in name or name in taken:
        raise CompositionError(
            f"the adaptation's name {name!r} is empty, has a dot, or is taken on this model or by torch",
            f"use {unused_name(model, name.replace('.', '-') or default)!r}",
        )
    return name


def device_of(model: PreTrainedModel) -> torch.device:
    """Where new parameters go: beside the first that is in memory, or on the meta device with the whole model."""
    first = next(model.parameters()).device
    return next((parameter.device for parameter in model.parameters() if not parameter.is_meta), first)
