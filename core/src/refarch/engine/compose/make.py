"""The way to get a composition: name an expression, and say what its parts are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from refarch.architecture import ConfiguredTechnique, TechniqueSpec
from refarch.architecture.expression import parts as names_of
from refarch.architecture.expression import read_expression
from refarch.engine.adaptation import Adaptation, adaptations, taken_names
from refarch.engine.attach import attach, load
from refarch.engine.compose.composition import Composition
from refarch.errors import CompositionError, did_you_mean
from refarch.plugins.registry import Registry

Part = Adaptation | TechniqueSpec | ConfiguredTechnique | str | Path
"""What a part may be given as: an adaptation of the model; a technique, attached anew; the folder of a saved
adaptation.
"""


def compose(
    model: PreTrainedModel,
    expression: Any,
    parts: Mapping[str, Part] | None = None,
    *,
    name: str = "composition",
    seed: int = 0,
    trainable: bool = True,
    registry: Registry | None = None,
) -> Composition:
    """Combine adaptations of a model by an expression.

    Args:
        model: a transformers model.
        expression: text like ``stack(prompt, sum(lora-a: 0.5, lora-b: 0.5))``, the same as plain data, or a spec.
        parts: for names in the expression, what they are: a technique (a name or a spec) is attached, a folder (a path)
            is loaded. Other names are those of adaptations on the model.
        name: the composition's name on the model.
        seed: decides the initial values of routers, fusions and techniques that are attached.
        trainable: False for inference only.
        registry: where techniques are looked up.

    Raises:
        SpecError: the expression cannot be read.
        CompositionError: a part is missing, or the expression is impossible for these parts; the slots and the
        properties
            in conflict are named. The model is as it was.
    """
    wanted = read_expression(expression)
    given = dict(parts or {})
    needed = names_of(wanted)
    _check_names(model, name, needed, given)
    added: list[Adaptation] = []
    try:
        found = {}
        for label in needed:
            found[label], new = _part(model, label, given.get(label), seed, trainable, registry)
            added += [found[label]] if new else []
        return Composition(model, wanted, found, name=name, seed=seed, trainable=trainable)
    except BaseException:
        for adaptation in reversed(added):
            if adaptation.state == "attached":
                adaptation.detach()
        raise


def _check_names(model: PreTrainedModel, name: str, needed: tuple[str, ...], given: Mapping[str, Part]) -> None:
    present = {adaptation.name for adaptation in adaptations(model)}
    strange = [label for label in given if label not in needed]
    if strange:
        raise CompositionError(
            f"{strange[0]!r} is given, but the expression does not name it", did_you_mean(strange[0], needed)
        )
    for label in needed:
        if label not in given and label not in present:
            raise CompositionError(
                f"the expression names {label!r}, but the model has no adaptation of that name",
                f"attach it first, or say what it is with parts={{{label!r}: ...}}; {did_you_mean(label, present)}",
            )
    if name in taken_names(model) or "." in name or not name:
        raise CompositionError(f"the composition's name {name!r} is empty, has a dot, or is taken on this model")


def _part(
    model: PreTrainedModel, label: str, given: Part | None, seed: int, trainable: bool, registry: Registry | None
) -> tuple[Adaptation, bool]:
    """The adaptation of a name, and whether it is new on the model."""
    if given is None:
        return next(adaptation for adaptation in adaptations(model) if adaptation.name == label), False
    if isinstance(given, Adaptation):
        if given.model is not model or given.state != "attached" or given.name != label:
            raise CompositionError(
                f"part {label!r} is given as {given!r}, which is not attached to this model under that name",
                "name parts in the expression as they are named on the model",
            )
        return given, False
    if isinstance(given, Path):
        return load(model, given, name=label, trainable=trainable, registry=registry), True
    return attach(model, given, name=label, seed=seed, trainable=trainable, registry=registry), True
