"""Batches whose rows are of several entries: one forward pass, in which each row has its own adaptations."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from refarch import compose
from refarch.errors import CompositionError
from refarch.tasks import Question, hear_batches
from refarch_library.predict.loaded import Loaded


class NotByRow(CompositionError):
    """The task asks more than one row for a text, or less, so no row is one entry's alone."""


class Mixture:
    """Entries of one view that split its batches.

    Args:
        members: entries that ask alike.

    Raises:
        CompositionError: they cannot share a forward pass: heads that they have trained, for example.
    """

    def __init__(self, members: Sequence[Loaded]) -> None:
        self.members = tuple(members)
        terms: list[dict[str, Any]] = []
        for number, member in enumerate(members):
            names = [adaptation.name for adaptation in member.adaptations]
            of: Any = names[0] if len(names) == 1 else {"op": "stack", "terms": names}
            terms.append({"of": of, "label": f"entry-{number}"})
        parts = {adaptation.name: adaptation for member in members for adaptation in member.adaptations}
        model = members[0].view.model
        self.composition = compose(model, {"op": "split", "terms": terms}, parts, trainable=False)

    def holds(self, members: Sequence[Loaded]) -> bool:
        """Whether all of them are in it."""
        return all(member in self.members for member in members)

    def ask(self, owners: Sequence[Loaded], texts: Sequence[Question], batch_size: int) -> list[dict[str, Any]]:
        """The answers to texts, each by its own entry.

        Raises:
            NotByRow: the task does not ask one row for each text.
        """
        labels = [f"entry-{self.members.index(owner)}" for owner in owners]

        def hear(chosen: Sequence[int], count: int) -> None:
            if count != len(labels):
                raise NotByRow(f"{len(labels)} texts are asked in {count} rows")
            self.composition.assign([labels[index] for index in chosen])

        first = owners[0]
        try:
            with contextlib.ExitStack() as stack:
                for member in dict.fromkeys(owners):
                    stack.enter_context(member.active())
                stack.enter_context(hear_batches(hear))
                return first.task.ask(first.view.model, first.view.tokenizer, texts, batch_size)
        finally:
            self.composition.assign(None)

    def dissolve(self) -> None:
        """Let the entries' adaptations run by themselves again."""
        self.composition.detach(parts=False)
