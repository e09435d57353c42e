"""An adaptation: a technique bound to one model. Attach, disable, detach."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from refarch.architecture import ModuleSpec, parse_slot
from refarch.architecture.fingerprint import Fingerprint
from refarch.engine.adaptation import training_schedule as schedule
from refarch.engine.adaptation.plan import Insertion, Plan
from refarch.engine.bindings.attention.key_value import KeyValueBound
from refarch.engine.bindings.attention.self_attention import AttendingBound
from refarch.engine.bindings.inputs import InputsBound
from refarch.engine.bindings.module import Bound
from refarch.engine.checkpoints.format import Source
from refarch.engine.functions.function import Function
from refarch.engine.host import selection
from refarch.engine.host.container import Attached, Tree, compositions_with, refuse_part
from refarch.engine.host.fingerprint import fingerprint
from refarch.engine.slots.resolver import Resolver
from refarch.errors import CompositionError, SlotError

State = Literal["attached", "merged", "detached"]
HEAD = ModuleSpec(
    name="head",
    workspace=("head",),
    insertion="sequential",
    integration="selection",
    input_type="weights",
    adapted="selection",
    intra="none",
    inter="fixed",
    form="linear",
    parameters=("*",),
)
"""The selection that ``train_head`` adds to any technique."""


class Adaptation:
    """A technique bound to one model.

    Made by :func:`refarch.attach` and :func:`refarch.load`.

    Attributes:
        name: unique on the model.
        model: the model, an ordinary transformers model as before.
        technique: the spec with all options decided.
        family: the backbone family's table.
        seed: what the modules' initial values depend on.
        source: the plugin that the technique came from.
        train_head: whether the model's head trains along.
        state: ``attached``, ``merged`` or ``detached``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        resolver: Resolver,
        plan: Plan,
        *,
        name: str,
        seed: int,
        source: Source,
        train_head: bool,
        trainable: bool,
        folded: bool = False,
    ) -> None:
        self.model, self.resolver, self.family, self.name, self.seed = model, resolver, resolver.family, name, seed
        self.technique, self.source, self.train_head = plan.technique, source, train_head
        self.state: State = "detached"
        self.folded = folded
        self._enabled = True
        self.tree = Tree()
        self.insertions: list[Insertion] = plan.insertions
        self.schedules = plan.schedules
        self.bound: list[Bound | KeyValueBound | InputsBound] = []
        self.copies: dict[str, nn.Parameter] = {}
        self.slot_map = {f"{spec.name}.{site.address}": site.end.path for spec, site in plan.sites}
        for insertion in plan.insertions:
            self._place(insertion)
        selected: dict[str, nn.Parameter] = {}
        for spec, sites in plan.selections:
            selected |= selection.select(self, spec, sites)
        if train_head:
            if not resolver.head():
                raise SlotError(f"{type(model).__name__} has no head to train", "leave train_head out")
            selected |= selection.select(self, HEAD, resolver.resolve([parse_slot("head")], HEAD.layers))
        self._bind(selected, trainable)

    def _place(self, insertion: Insertion) -> None:
        spec, site = insertion.spec, insertion.site
        # A sublayer's address is the beginning of its leaves' addresses, at which functions may stand too.
        address = f"{site.address}.sublayer" if site.ref.slot.kind == "sublayer" else site.address
        self.tree.put(f"{spec.name}.{address}", insertion.function)
        if insertion.gate is not None:
            self.tree.put(f"{spec.name}-gate.{address}", insertion.gate)
        if site.ref.slot.kind == "inputs":
            self.bound.append(InputsBound(self, spec, site, insertion.function))
        elif site.ref.slot.kind == "key_value":
            self.bound.append(KeyValueBound(self, spec, site, insertion.function, insertion.gate))
        else:
            kind = AttendingBound if spec.form == "attention" else Bound
            self.bound.append(kind(self, spec, site, insertion.function, insertion.gate))

    def _bind(self, selected: dict[str, nn.Parameter], trainable: bool) -> None:
        """From here on the model changes."""
        container = Attached.of(self.model)
        if container is None:
            container = Attached(self.model)
            self.model.add_module("refarch", container)
        if trainable:
            container.keep_order(self.model)
        container.training = self.model.training
        if not self.model.training:  # modules are made in training mode
            self.tree.train(False)
        container.add_module(self.name, self.tree)
        container.order.append(self)
        self.state = "attached"
        done: list[Bound | KeyValueBound | InputsBound] = []
        try:
            for binding in self.bound:
                binding.attach()
                done.append(binding)
            self.copies = selection.take(self, selected)
        except BaseException:
            self.bound = done
            self.detach()
            raise
        if not trainable:
            for _, parameter in self.named_parameters():
                parameter.requires_grad_(False)

    # parameters ----------------------------------------------------------------------------------------------------

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """This adaptation's own parameters. Selected copies are named ``base:<path in the model>``; a parameter that
        several insertions share is named once.
        """
        yield from self.tree.named_parameters()
        for path, copy in self.copies.items():
            yield f"base:{path}", copy

    def parameters(self) -> Iterator[nn.Parameter]:
        """This adaptation's own parameters."""
        return (parameter for _, parameter in self.named_parameters())

    def modules(self) -> tuple[ModuleSpec, ...]:
        """The module specs that are at work, with options decided; the selection of a head that trains along too."""
        own = tuple(map(self.technique.decided, self.technique.technique.modules))
        return (*own, HEAD) if self.train_head else own

    def functions(self) -> Iterator[tuple[str, Function]]:
        """The functions by address."""
        for insertion in self.insertions:
            yield f"{insertion.spec.name}.{insertion.site.address}", insertion.function

    def count(self, trainable: bool = True, head: bool = True) -> int:
        """Number of parameters: those that train, or all (with frozen factors).

        Args:
            trainable: count only those that train.
            head: count the head that trains along too; one that the technique selects itself always counts.
        """
        outside = tuple(f"base:{path}." for path in self._head_paths()) if self.train_head and not head else ()
        chosen = (p for name, p in self.named_parameters() if not name.startswith(outside))
        return sum(p.numel() for p in chosen if p.requires_grad or not trainable)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The trainable parameters in groups for a torch optimizer, each with the learning rate that its spec asks for.

        Args:
            learning_rate: what the technique's learning rate scales are multiples of.
        """
        from refarch.engine.adaptation.training import parameter_groups

        return parameter_groups(self, learning_rate)

    def penalty(self) -> Tensor:
        """What the functions add to the training loss: for each module the mean over its insertions, summed; 0 if none
        adds anything. The platform's trainer does this; a loop of your own adds it to the loss of each optimizer step.
        """
        return schedule.penalty(self)

    def after_step(self, step: int, total: int) -> None:
        """Let the modules' schedules act. The platform's trainer does this; in a loop of your own, it stands after
        ``optimizer.step()`` and before the gradients are set to zero.

        Args:
            step: how many optimizer steps have been made, from 1 to ``total``.
            total: how many there will be.

        Raises:
            RefarchError: a schedule's options do not fit the number of steps, or it finds no gradients.
        """
        schedule.after_step(self, step, total)

    def state_dict(self) -> dict[str, Tensor]:
        """Values of all parameters and buffers by name; shared ones once."""
        tensors: dict[str, Tensor] = {name: p.detach() for name, p in self.named_parameters()}
        tensors |= {name: buffer.detach() for name, buffer in self.tree.named_buffers()}
        return tensors

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy values in; the names and shapes must be exactly this adaptation's.

        Raises:
            CompositionError: they are not.
        """
        own = self.state_dict()
        wrong = sorted(own.keys() ^ tensors.keys()) + [
            name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape
        ]
        if wrong:
            raise CompositionError(f"these values do not belong to adaptation {self.name!r}: {', '.join(wrong[:5])}")
        for name, tensor in own.items():
            tensor.copy_(tensors[name])

    # switching -----------------------------------------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        """Whether the adaptation takes part in the model's computation."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._require("attached", "switch")
        self._enabled = value
        selection.refresh(self.model)

    @property
    def active(self) -> bool:
        """Whether it is enabled, and so is each composition that it is a part of."""
        return self._enabled and all(composition.active for composition in compositions_with(self))

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """While inside, the model computes without this adaptation."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            if self.state == "attached":
                self.enabled = before

    # taking away ---------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Take the adaptation off the model. With the last one, the model is bit for bit what it was.

        Raises:
            CompositionError: it is merged; ``unmerge()`` first, or ``commit()`` to keep the merged weights.
        """
        self._require("attached", "detach")
        refuse_part(self, "detach")
        for binding in reversed(self.bound):
            binding.detach()
        if self.copies:
            selection.release(self)
        self._forget()

    def _forget(self, new_base: bool = False) -> None:
        """Leave the model. ``new_base``: its weights are from now on others than those it was loaded with."""
        container = Attached.of(self.model)
        assert container is not None
        container.order.remove(self)
        del container._modules[self.name]
        self.state = "detached"
        if new_base and not any(adaptation.state == "merged" for adaptation in container.order):
            container.fingerprint = None
        if not container.order:
            del self.model._modules["refarch"]
            container.give_back(self.model)

    def _require(self, state: State, what: str) -> None:
        if self.state == state:
            return
        hints = {
            "merged": "unmerge() first, or commit() to keep the merged weights",
            "detached": "attach it again with refarch.attach or refarch.load",
            "attached": "merge() first",
        }
        raise CompositionError(f"adaptation {self.name!r} is {self.state}; cannot {what} it", hints[self.state])

    # algebra and files ---------------------------------------------------------------------------------------------

    def merge_reasons(self, *, in_memory: bool = True) -> list[str]:
        """Why the adaptation cannot be merged into the base weights; empty if it can, exactly.

        Args:
            in_memory: False to leave out that weights may not be there to be written into: what holds for a model on
                the meta device, once it has weights.
        """
        from refarch.engine.adaptation.merge import reasons

        return reasons(self, in_memory)

    def merge(self) -> None:
        """Write the adaptation into the base weights; the forward pass is then the plain model's.

        The weights as they were are kept aside for :meth:`unmerge`.

        Raises:
            CompositionError: the algebra does not allow it; names the slot and the reason. Nothing was changed.
        """
        from refarch.engine.adaptation.merge import merge

        self._require("attached", "merge")
        refuse_part(self, "merge")
        merge(self)

    def unmerge(self) -> None:
        """Put the base weights back, bit for bit, and bind the functions again.

        Raises:
            CompositionError: another adaptation was merged into the same weights since.
        """
        from refarch.engine.adaptation.merge import unmerge

        self._require("merged", "unmerge")
        unmerge(self)

    def commit(self) -> None:
        """Keep the merged weights for good and forget the adaptation; what remains is a plain model."""
        from refarch.engine.adaptation.merge import commit

        self._require("merged", "commit")
        commit(self)

    def save(self, folder: str | Path, *, for_training: bool = False) -> Path:
        """Save to a folder: tensors as safetensors, everything else as JSON. Overwriting is atomic.

        Args:
            folder: made if need be.
            for_training: keep what only training needs (a prefix's reparameterisation).

        Returns:
            The folder.

        Raises:
            SaveError: writing failed; what was saved there before is untouched.
        """
        from refarch.engine.checkpoints.writing import save

        return save(self, Path(folder), for_training=for_training)

    def saved_state(self, *, for_training: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What :meth:`save` writes into the tensor file: the tensors by name, and the file's metadata.

        Works on the meta device too, where it says names and shapes.

        Args:
            for_training: as in :meth:`save`.
        """
        from refarch.engine.checkpoints.writing import contents

        return contents(self, for_training=for_training)

    def saved_bytes(self, *, for_training: bool = False) -> int:
        """How many bytes :meth:`save` writes, both files together. Exact, without writing; on the meta device too.

        Args:
            for_training: as in :meth:`save`.
        """
        from refarch.engine.checkpoints.writing import size

        return size(self, for_training=for_training)

    def base_fingerprint(self) -> Fingerprint:
        """The identity of the base that this adaptation belongs to."""
        container = Attached.of(self.model)
        if container is None:
            return fingerprint(self.model, self._head_paths())
        if container.fingerprint is None:
            container.fingerprint = fingerprint(self.model, self._head_paths())
        return container.fingerprint

    def _head_paths(self) -> list[str]:
        return [place.path for place in self.resolver.head()]

    def __repr__(self) -> str:
        model = type(self.model).__name__
        return f"<Adaptation {self.name!r}: {self.technique.name} on {model}, {self.count():,} trainable, {self.state}>"
