"""How both readers put a checkpoint on a model: attached while its values are filled in, all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from transformers import PreTrainedModel

import refarch
from refarch import Adaptation, ConfiguredTechnique, FamilySpec, Registry
from refarch.engine import Source


@contextmanager
def filled(
    model: PreTrainedModel,
    technique: ConfiguredTechnique,
    registry: Registry,
    *,
    plugin: str,
    name: str | None,
    trainable: bool,
    family: FamilySpec | None,
    train_head: bool = False,
) -> Iterator[Adaptation]:
    """Attach a technique, to be filled inside; if that fails the model is as it was.

    Args:
        model: the base.
        technique: configured as the checkpoint says.
        registry: where names are looked up.
        plugin: the name of the technique that it is a form of, which the adaptation then names as its source.
        name: the adaptation's; the technique's when left out.
        trainable: whether it trains on.
        family: a backbone table; found by the model's type when left out.
        train_head: whether the checkpoint holds a head.
    """
    found = registry.find("technique", plugin)
    adaptation = refarch.attach(
        model, technique, name=name, trainable=trainable, train_head=train_head, family=family, registry=registry
    )
    with ExitStack() as undo:
        undo.callback(adaptation.detach)
        adaptation.source = Source(distribution=found.distribution, version=found.version)
        yield adaptation
        undo.pop_all()
    for parameter in adaptation.parameters() if not trainable else ():
        parameter.requires_grad_(False)
