"""The parts that an expression names, found on a model or brought there."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from transformers import PreTrainedModel

from refarch.architecture import ConfiguredTechnique, TechniqueSpec
from refarch.architecture.expression import Operator, parts
from refarch.engine.adaptation.adaptation import Adaptation, adaptations
from refarch.engine.adaptation.attach import attach
from refarch.engine.adaptation.load import load
from refarch.errors import CompositionError, did_you_mean
from refarch.plugins.registry import Registry

PartLike = Adaptation | TechniqueSpec | ConfiguredTechnique | str | Path
"""What a part may be given as: an adaptation of the model; a technique, attached anew; a saved adaptation's folder."""


@dataclasses.dataclass
class Taken:
    """The parts of an expression.

    Attributes:
        model: theirs.
        found: by name.
        added: those that were not on the model before.
    """

    model: PreTrainedModel
    found: dict[str, Adaptation]
    added: list[Adaptation]

    def put_back(self) -> None:
        """Take away again what was brought, as far as it is still there."""
        for adaptation in reversed(self.added):
            if adaptation.state == "attached":
                adaptation.detach()


@contextlib.contextmanager
def bring_parts(
    model: PreTrainedModel,
    expression: str | Operator,
    given: Mapping[str, PartLike] | None,
    *,
    seed: int = 0,
    trainable: bool = True,
    registry: Registry | None = None,
) -> Iterator[Taken]:
    """The parts; if what is done with them fails, those that were brought are taken away again.

    Raises:
        CompositionError: some are missing.
    """
    needed, given = parts(expression), dict(given or {})
    _check(model, needed, given)
    taken = Taken(model, {}, [])
    with contextlib.ExitStack() as undo:
        undo.callback(taken.put_back)
        for label in needed:
            part, new = _part(model, label, given.get(label), seed, trainable, registry)
            taken.found[label] = part
            taken.added += [part] if new else []
        yield taken
        undo.pop_all()


def _check(model: PreTrainedModel, needed: tuple[str, ...], given: Mapping[str, PartLike]) -> None:
    present = {adaptation.name for adaptation in adaptations(model)}
    strange = next((label for label in given if label not in needed), None)
    if strange is not None:
        raise CompositionError(
            f"{strange!r} is given, but the expression does not name it", did_you_mean(strange, needed)
        )
    for label in needed:
        if label not in given and label not in present:
            raise CompositionError(
                f"the expression names {label!r}, but the model has no adaptation of that name",
                f"attach it first, or say what it is with parts={{{label!r}: ...}}; {did_you_mean(label, present)}",
            )


def _part(
    model: PreTrainedModel, label: str, given: PartLike | None, seed: int, trainable: bool, registry: Registry | None
) -> tuple[Adaptation, bool]:
    """The adaptation of a name, and whether it is new on the model."""
    if given is None:
        found = next(adaptation for adaptation in adaptations(model) if adaptation.name == label)
        if found.state == "merged":
            raise CompositionError(
                f"part {label!r} is merged: it is in the base weights, where no operator can weigh or leave it out",
                f"unmerge {label!r} first",
            )
        return found, False
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
