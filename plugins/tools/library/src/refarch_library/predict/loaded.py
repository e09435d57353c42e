"""What a predictor holds: the backbone under a head, and entries on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refarch import SOURCE_OPTIONS, SPLIT_OPTIONS, Adaptation, Task
from refarch_library.entry import Entry


@dataclass(eq=False)
class Loaded:
    """An entry on the backbone.

    Attributes:
        name: by which it was asked for.
        entry: what it says about itself.
        view: where its adaptations are; they are disabled unless it is asked.
        adaptations: in their order.
        task: what encodes texts for it and reads its answers.
    """

    name: str
    entry: Entry
    view: View
    adaptations: tuple[Adaptation, ...]
    task: Task

    @property
    def bytes(self) -> int:
        """What its parameters take."""
        return sum(p.numel() * p.element_size() for a in self.adaptations for p in a.parameters())

    @property
    def precision(self) -> str:
        """In which the run was."""
        return str(self.entry.record.pipeline.training.precision)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """While inside, this entry's adaptations take part."""
        for adaptation in self.adaptations:
            adaptation.enabled = True
        try:
            yield
        finally:
            for adaptation in self.adaptations:
                adaptation.enabled = False

    def asks_as(self, other: Loaded) -> bool:
        """Whether another entry encodes texts and reads answers alike, on the same view."""
        own, its = self.entry.record.pipeline.task, other.entry.record.pipeline.task
        return (
            self.view is other.view
            and self.precision == other.precision
            and self.task.formulation == other.task.formulation
            and (own.name, _asking(own.options)) == (its.name, _asking(its.options))
        )


def _asking(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a task's options that say how texts are asked, and not which data a run was trained on."""
    data = {option.name for option in (*SOURCE_OPTIONS, *SPLIT_OPTIONS)}
    return {name: value for name, value in options.items() if name not in data}


@dataclass(eq=False)
class View:
    """The backbone under one head. The views of a predictor share the backbone's parameters.

    Attributes:
        model: the backbone with the head.
        tokenizer: the backbone's.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
