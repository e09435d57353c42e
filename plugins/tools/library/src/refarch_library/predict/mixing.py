"""Entries of one view in one batch, as a composition that gives each row the adaptations of its own entry."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from refarch import Adaptation, compose
from refarch.architecture.expression import Operator, Split, Stack, Term
from refarch.engine.attached import unused_name
from refarch.errors import CompositionError, SpecError, UsageError

Rows = Callable[[Sequence[str]], contextlib.AbstractContextManager[None]]
"""Gets the entry's name for each row of a batch, and gives the context in which it is computed."""


class NotMixable(UsageError):
    """These entries cannot share a batch; the message says which property is in the way."""


@contextlib.contextmanager
def mixed(entries: Mapping[str, Sequence[Adaptation]]) -> Iterator[Rows]:
    """While inside, a batch of the entries' model may mix them.

    Args:
        entries: by name, their adaptations in order; disabled, and so again afterwards.

    Raises:
        NotMixable: the algebra does not allow it.
    """
    everything = [adaptation for own in entries.values() for adaptation in own]
    labels = {name: f"entry-{number}" for number, name in enumerate(entries)}
    for adaptation in everything:
        adaptation.enabled = True
    try:
        model = everything[0].model
        try:
            terms = tuple(Term(of=_stacked(own), label=labels[name]) for name, own in entries.items())
            split = Split(op="split", terms=terms)
            composition = compose(model, split, name=unused_name(model, "mixed"), trainable=False)
        except (CompositionError, SpecError, ValueError) as error:
            raise NotMixable(str(error)) from None
        try:
            yield lambda names: composition.rows([labels[name] for name in names])
        finally:
            composition.detach(parts=False)
    finally:
        for adaptation in everything:
            adaptation.enabled = False


def _stacked(adaptations: Sequence[Adaptation]) -> str | Operator:
    if len(adaptations) == 1:
        return adaptations[0].name
    return Stack(op="stack", terms=tuple(Term(of=adaptation.name) for adaptation in adaptations))
