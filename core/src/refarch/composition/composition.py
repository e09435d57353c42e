"""A composition: adaptations of one model that an expression combines in each forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from refarch.architecture.expression import Operator, parts as names_of, to_text
from refarch.composition import files, merge as merging
from refarch.composition.rules import refuse_impossible
from refarch.composition.running.build import Builder
from refarch.composition.running.places import PlaceGroup
from refarch.composition.running.refusals import refuse_asked_twice, refuse_unreadable
from refarch.composition.running.rows import BatchRows, CallState, Names
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.adaptation.attach import device_of
from refarch.engine.adaptation.plan import seeded
from refarch.engine.host import selection
from refarch.engine.host.attachment import Attachment
from refarch.engine.host.container import Host, Tree, host_of
from refarch.engine.host.merged_weights import give_back
from refarch.errors import CompositionError, did_you_mean

KNOWN = 16
"""How many assignments of rows a composition remembers, with the indices that it has worked out for them."""


class Composition(Attachment):
    """Adaptations of one model, its parts, that an expression combines; made by :func:`refarch.compose`.

    The parts stay what they are: each is disabled by itself, trained and saved. While the composition stands, none can
    be detached or merged alone.

    Attributes:
        name: unique on the model.
        model: the model, an ordinary transformers model as before.
        expression: how the parts are combined.
        parts: the adaptations by the names that they have in the expression and on the model.
        tree: the operators' own modules (routers, fusions), a child of the model.
        state: ``attached``, ``merged`` or ``detached``.
        call: what is known of the present call.
    """

    noun = "composition"
    hints = {
        "merged": "unmerge() first",
        "detached": "make it again with refarch.compose",
        "attached": "merge() first",
    }
    renamed = {"status": "state"}
    parts: dict[str, Adaptation]

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
        self.parts = {label: found[label] for label in names_of(expression)}
        self.resolver = next(iter(self.parts.values())).resolver
        self.call = CallState()
        self._known: dict[Names, BatchRows] = {}
        self.tree = Tree()
        self._refuse_shared(self.parts)
        self._builder = self._built(self.parts)
        self._attach(trainable)

    def _built(self, parts: Mapping[str, Adaptation]) -> Builder:
        """What shall run, with nothing on the model changed.

        Raises:
            CompositionError: it is impossible for these parts.
        """
        refuse_impossible(self.expression, {label: part.modules() for label, part in parts.items()})
        builder = Builder(self, self.expression, self.call, parts)
        with seeded(self.seed):
            builder.build()
        refuse_unreadable(builder.groups)
        refuse_asked_twice(builder.groups)
        with torch.no_grad():
            builder.aim()
        return builder

    def _refuse_shared(self, parts: Mapping[str, Adaptation]) -> None:
        for other in compositions(self.model):
            both = [label for label, part in parts.items() if part in other.parts.values()]
            if both and other is not self:
                raise CompositionError(
                    f"{both[0]!r} is a part of composition {other.name!r} already",
                    f"detach that with composition.detach(parts=False), or put its expression into yours: {other}",
                )

    def _attach(self, trainable: bool) -> None:
        """From here on the model changes."""
        host = host_of(self.model)
        host.add_module(self.name, self.tree)
        host.compositions.append(self)
        self.state = "attached"
        self._start(trainable)

    def _start(self, trainable: bool) -> None:
        """Let run what was built."""
        self.tree._modules.clear()
        for path, module in self._builder.combiners.items():
            self.tree.put(path, module.to(device_of(self.model)).requires_grad_(trainable))
        self.tree.train(self.model.training)
        self._builder.attach()
        selection.reorder(self.model, list(self.parts.values()))

    def replace(self, name: str, part: Adaptation) -> Adaptation:
        """Put another adaptation of the model in the place of a part, while all others stay as they are.

        Nothing of the others is computed or copied again. The operators' own parameters stay, too, where they fit.

        Args:
            name: the part's, in the expression.
            part: attached to the model; it may have another name there.

        Returns:
            The adaptation that was the part; it is detached.

        Raises:
            CompositionError: it is impossible for the new part; everything is as it was.
        """
        self.require("attached", "change")
        old = self.parts.get(name)
        if old is None:
            raise CompositionError(f"composition {self.name!r} has no part {name!r}", did_you_mean(name, self.parts))
        if part.model is not self.model or part.state != "attached":
            raise CompositionError(f"{part!r} is not attached to this model", "attach or load it first")
        parts = {label: part if label == name else own for label, own in self.parts.items()}
        if part in self.parts.values():
            raise CompositionError(f"{part.name!r} is a part of the composition already")
        self._refuse_shared({name: part})
        new = self._built(parts)
        for path, module in new.combiners.items():
            before = self._builder.combiners.get(path)
            if before is not None and _shapes(before) == _shapes(module) and not list(before.buffers()):
                module.load_state_dict(before.state_dict())
        trainable = any(parameter.requires_grad for parameter in self.tree.parameters())
        self._builder.detach()
        self._known.clear()  # they know where parts were in operators
        self.parts, self._builder = parts, new
        self._start(trainable)
        old.detach()
        return old

    def detach(self, *, parts: bool = True) -> None:
        """Take the composition off the model.

        Args:
            parts: with its parts; False to leave these attached, one after another in the order of their attachment.
        """
        self.require("attached", "detach")
        self._builder.detach()
        host = host_of(self.model)
        host.compositions.remove(self)
        del host._modules[self.name]
        self.state = "detached"
        selection.reorder(self.model, host.order)
        for part in sorted(self.parts.values(), key=host.order.index, reverse=True):
            if parts and not any(part in other.parts.values() for other in host.compositions):
                part.detach()

    @property
    def groups(self) -> list[PlaceGroup]:
        """What runs, one at each place of the model."""
        return self._builder.groups

    # switching -----------------------------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether it computes anything now: enabled, and not merged. Without it, none of its parts does."""
        return self._enabled and self.state == "attached"

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
        before = self.call.rows
        self.assign(names)
        try:
            yield
        finally:
            self.call.rows = before

    def assign(self, names: Sequence[str | None] | None) -> None:
        """The same from now on; None to forget the rows."""
        if names is None:
            self.call.rows = None
            return
        self._builder.check_names(names)
        key = tuple(names)
        if key not in self._known:
            if len(self._known) >= KNOWN:
                self._known.pop(next(iter(self._known)))
            self._known[key] = BatchRows(names)
        self.call.rows = self._known[key]

    @contextlib.contextmanager
    def tasks(self, numbers: Sequence[int]) -> Iterator[None]:
        """While inside, the routes by task know each row's task.

        Args:
            numbers: one for each row of the batch, from 0.
        """
        before, self.call.tasks = self.call.tasks, tuple(int(number) for number in numbers)
        try:
            yield
        finally:
            self.call.tasks = before

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

    # weights and files ---------------------------------------------------------------------------------------------

    def merge_reasons(self) -> list[str]:
        """Why the composition cannot be merged into the base weights; empty if it can, exactly."""
        return merging.reasons(self, self.parts, self.groups)

    def merge(self) -> None:
        """Write the composed weights into the base; the forward pass is then the plain model's.

        Raises:
            CompositionError: it is no weight somewhere; the slots and reasons are named. Nothing was changed.
        """
        self.require("attached", "merge")
        next(iter(self.parts.values())).base_fingerprint()  # of the base as it is before
        merging.merge(self, self.parts, self.groups)
        self.state = "merged"

    def unmerge(self) -> None:
        """Put the base weights back, bit for bit.

        Raises:
            CompositionError: something else was merged into the same weights since.
        """
        self.require("merged", "unmerge")
        give_back(self)
        self.state = "attached"

    def save(self, folder: str | Path, *, for_training: bool = False) -> Path:
        """Save it with its parts to one folder, which :func:`refarch.load_composition` reads. Overwriting is atomic.

        Args:
            folder: made if need be.
            for_training: keep what only training needs.

        Raises:
            SaveError: writing failed; what was saved there before is untouched.
        """
        if self.state == "detached":
            self.require("attached", "save")
        return files.save(
            Path(folder),
            self.name,
            self.expression,
            self.seed,
            self.parts,
            self.tree,
            for_training=for_training,
        )

    def __str__(self) -> str:
        return to_text(self.expression)

    def __repr__(self) -> str:
        return f"<Composition {self.name!r}: {to_text(self.expression)} on {type(self.model).__name__}, {self.state}>"


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def compositions(model: nn.Module) -> tuple[Composition, ...]:
    """The compositions on a model, in the order in which they were made."""
    host = Host.of(model)
    return tuple(own for own in host.compositions if isinstance(own, Composition)) if host else ()
