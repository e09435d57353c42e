"""A composition: adaptations of one model that an expression combines in each forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from refarch.architecture.expression import Operator, Split, operators, parts, to_text
from refarch.engine import selection
from refarch.engine.adaptation import Adaptation
from refarch.engine.attached import Attached, Tree
from refarch.engine.compose.build import Builder, names_in
from refarch.engine.compose.rows import Rows, State
from refarch.engine.compose.rules import refuse_impossible, refuse_unreadable
from refarch.engine.dispatch import Dispatcher
from refarch.engine.plan import seeded
from refarch.errors import CompositionError, did_you_mean


class Composition:
    """Adaptations of one model, its parts, that an expression combines; made by :func:`refarch.compose`.

    The parts stay what they are: each is disabled by itself, trained and saved. While the composition stands, none can
    be detached or merged alone.

    Attributes:
        name: unique on the model.
        model: the model, an ordinary transformers model as before.
        expression: how the parts are combined.
        parts: the adaptations by the names that they have in the expression and on the model.
        tree: the operators' own modules (routers, fusions), a child of the model.
        status: ``attached`` or ``detached``.
        state: what is known of the present call.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        expression: str | Operator,
        found: Mapping[str, Adaptation],
        *,
        name: str,
        seed: int = 0,
        trainable: bool = True,
    ) -> None:
        self.model, self.expression, self.name, self.seed = model, expression, name, seed
        self.parts = {label: found[label] for label in parts(expression)}
        self.resolver = next(iter(self.parts.values())).resolver
        self.state = State()
        self._enabled = True
        self.status: Literal["attached", "detached"] = "detached"
        self._refuse_shared()
        refuse_impossible(expression, {label: part.modules() for label, part in self.parts.items()})
        self._builder = Builder(self)
        with seeded(seed):
            self._builder.build()
        refuse_unreadable(self._builder.groups)
        with torch.no_grad():
            self._builder.aim()
        self.tree = Tree()
        for path, module in self._builder.combiners.items():
            self.tree.put(path, module.to(model.device))
        self.tree.requires_grad_(trainable)
        self._attach()

    def _refuse_shared(self) -> None:
        for other in compositions(self.model):
            both = [label for label, part in self.parts.items() if part in other.parts.values()]
            if both:
                raise CompositionError(
                    f"{both[0]!r} is a part of composition {other.name!r} already",
                    f"detach that with composition.detach(parts=False), or put its expression into yours: {other}",
                )

    def _attach(self) -> None:
        """From here on the model changes."""
        container = Attached.of(self.model)
        assert container is not None
        self.tree.train(self.model.training)
        container.add_module(self.name, self.tree)
        container.compositions.append(self)
        for module, carrier in self._builder.carriers:
            Dispatcher.at(module).add(carrier)
        for tokens in self._builder.tokens:
            tokens.attach()
        for group in self._builder.groups:
            group.attach()
        selection.reorder(self.model, list(self.parts.values()))
        self.status = "attached"

    def detach(self, *, parts: bool = True) -> None:
        """Take the composition off the model.

        Args:
            parts: with its parts; False to leave these attached, one after another in the order of their attachment.
        """
        self._require()
        for group in reversed(self._builder.groups):
            group.detach()
        for tokens in self._builder.tokens:
            tokens.detach()
        for module, carrier in self._builder.carriers:
            dispatcher = Dispatcher.of(module)
            assert dispatcher is not None
            dispatcher.remove(carrier)
        container = Attached.of(self.model)
        assert container is not None
        container.compositions.remove(self)
        del container._modules[self.name]
        self.status = "detached"
        selection.reorder(self.model, container.order)
        for part in reversed([part for part in container.order if part in self.parts.values()]):
            if parts and not any(part in other.parts.values() for other in container.compositions):
                part.detach()

    def _require(self) -> None:
        if self.status != "attached":
            raise CompositionError(f"composition {self.name!r} is detached", "make it again with refarch.compose")

    # switching -----------------------------------------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        """Whether the composition takes part; without it, none of its parts does."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._require()
        self._enabled = value
        selection.refresh(self.model)

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """While inside, the model computes without the composition and its parts."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            if self.status == "attached":
                self.enabled = before

    # rows ----------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """While inside, each row of a batch is computed with the part that it names, and with none for None.

        A name is a part's, or a term's label. Generation keeps rows and names together, with beams and repeated
        sequences too. What a backward pass computes again must run inside as well.

        Args:
            names: one for each row of the batch.

        Raises:
            CompositionError: nothing has such a name, or it stands for several terms.
        """
        before = self.state.rows
        self.assign(names)
        try:
            yield
        finally:
            self.state.rows = before

    def assign(self, names: Sequence[str | None] | None) -> None:
        """The same from now on; None to forget the rows."""
        if names is None:
            self.state.rows = None
            return
        splits = [self._builder.members[id(op)] for op in operators(self.expression) if isinstance(op, Split)]
        known = set().union(*splits) if splits else set()
        for wrong in sorted({name for name in names if name is not None} - known):
            if not splits:
                raise CompositionError(
                    f"composition {self.name!r} splits no batch: {to_text(self.expression)}", "compose split(...)"
                )
            inside = wrong in names_in(self.expression)
            reason = "stands in several terms; give each term a label (label=...)" if inside else "is none of its terms"
            raise CompositionError(f"composition {self.name!r}: {wrong!r} {reason}", did_you_mean(wrong, known))
        if not names:
            raise CompositionError("a batch without rows cannot be split")
        self.state.rows = Rows(names)

    @contextlib.contextmanager
    def tasks(self, numbers: Sequence[int]) -> Iterator[None]:
        """While inside, the routes by task know each row's task.

        Args:
            numbers: one for each row of the batch, from 0.
        """
        before, self.state.tasks = self.state.tasks, tuple(int(number) for number in numbers)
        try:
            yield
        finally:
            self.state.tasks = before

    # parameters ----------------------------------------------------------------------------------------------------

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of the parts, under their names, and the operators' own, under the composition's."""
        for label, part in self.parts.items():
            for name, parameter in part.named_parameters():
                yield f"{label}.{name}", parameter
        for name, parameter in self.tree.named_parameters():
            yield f"{self.name}.{name}", parameter

    def parameters(self) -> Iterator[nn.Parameter]:
        """All of them."""
        return (parameter for _, parameter in self.named_parameters())

    def train_combiners_only(self) -> None:
        """Freeze the parts, as AdapterFusion and routers of finished parts are trained."""
        for part in self.parts.values():
            for parameter in part.parameters():
                parameter.requires_grad_(False)

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute again what operators took from their parts' values (an arrow's directions), after these changed."""
        self._builder.aim()

    def __str__(self) -> str:
        return to_text(self.expression)

    def __repr__(self) -> str:
        return f"<Composition {self.name!r}: {to_text(self.expression)} on {type(self.model).__name__}, {self.status}>"


def compositions(model: nn.Module) -> tuple[Composition, ...]:
    """The compositions on a model, in the order in which they were made."""
    container = Attached.of(model)
    return tuple(container.compositions) if container else ()
