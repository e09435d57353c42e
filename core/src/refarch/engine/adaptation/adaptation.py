"""An adaptation: a technique bound to one model. Attach, disable, detach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from refarch.architecture import ModuleSpec, parse_slot
from refarch.architecture.fingerprint import Fingerprint
from refarch.engine.adaptation import merge as merging, training
from refarch.engine.adaptation.plan import Insertion, Plan
from refarch.engine.bindings.bind import bind
from refarch.engine.bindings.binding import Binding
from refarch.engine.checkpoints import provenance, writing
from refarch.engine.checkpoints.format import Described, Source
from refarch.engine.functions.core_techniques import HEAD
from refarch.engine.functions.function import Function, fold
from refarch.engine.host import selection
from refarch.engine.host.attachment import Attachment
from refarch.engine.host.container import Host, Tree, compositions_with, forget, refuse_part, settle
from refarch.engine.host.fingerprint import fingerprint
from refarch.engine.host.merged_weights import keep_merged
from refarch.engine.slots.resolver import Resolver
from refarch.errors import CompositionError, SlotError


class Adaptation(Attachment):
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

    noun = "adaptation"
    hints = {
        "merged": "unmerge() first, or commit() to keep the merged weights",
        "detached": "attach it again with refarch.attach or refarch.load",
        "attached": "merge() first",
    }
    renamed = {"bound": "bindings"}

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
        self.folded = folded
        self.tree = Tree()
        self.insertions: list[Insertion] = plan.insertions
        self.schedules = plan.schedules
        self.bindings: list[Binding] = []
        self.copies: dict[str, nn.Parameter] = {}
        self.slot_map = {f"{spec.name}.{site.address}": site.end.path for spec, site in plan.sites}
        for insertion in plan.insertions:
            self._place(insertion)
        selections = [*plan.selections]
        if train_head:
            if not resolver.head():
                raise SlotError(f"{type(model).__name__} has no head to train", "leave train_head out")
            selections.append((HEAD, resolver.resolve([parse_slot("head")], HEAD.layers)))
        selected: dict[str, nn.Parameter] = {}
        for spec, sites in selections:
            selected |= selection.select(model, spec, sites, self._head_paths())
        self._bind(selected, trainable)

    def _place(self, insertion: Insertion) -> None:
        spec, site = insertion.spec, insertion.site
        # A sublayer's address is the beginning of its leaves' addresses, at which functions may stand too.
        address = f"{site.address}.sublayer" if site.ref.slot.kind == "sublayer" else site.address
        self.tree.put(f"{spec.name}.{address}", insertion.function)
        if insertion.gate is not None:
            self.tree.put(f"{spec.name}-gate.{address}", insertion.gate)
        self.bindings.append(bind(self, spec, site, insertion.function, insertion.gate))

    def _bind(self, selected: dict[str, nn.Parameter], trainable: bool) -> None:
        """From here on the model changes."""
        host = settle(self.model)
        if trainable:
            host.keep_order(self.model)
        host.training = self.model.training
        if not self.model.training:  # modules are made in training mode
            self.tree.train(False)
        host.add_module(self.name, self.tree)
        host.order.append(self)
        self.state = "attached"
        done: list[Binding] = []
        try:
            for binding in self.bindings:
                binding.attach(self.model)
                done.append(binding)
            self.copies = selection.put_copies(self.model, self, selected) if selected else {}
        except BaseException:
            self.bindings = done
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
        return training.parameter_groups(self.rates(), learning_rate)

    def rates(self) -> dict[nn.Parameter, float]:
        """Every trainable parameter and the multiple of the learning rate at which it trains."""
        return training.rates(self.parameters(), self.insertions, self.technique)

    def penalty(self) -> Tensor:
        """What the functions add to the training loss: for each module the mean over its insertions, summed; 0 if none
        adds anything. The platform's trainer does this; a loop of your own adds it to the loss of each optimizer step.
        """
        return training.penalty(self.insertions if self._trains else (), self.parameters())

    def after_step(self, step: int, total: int) -> None:
        """Let the modules' schedules act. The platform's trainer does this; in a loop of your own, it stands after
        ``optimizer.step()`` and before the gradients are set to zero.

        Args:
            step: how many optimizer steps have been made, from 1 to ``total``.
            total: how many there will be.

        Raises:
            RefarchError: a schedule's options do not fit the number of steps, or it finds no gradients.
        """
        training.after_step(self.schedules if self._trains else (), step, total)

    @property
    def _trains(self) -> bool:
        """Whether it takes part in what is trained now."""
        return self.state == "attached" and self.enabled

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
    def active(self) -> bool:
        """Whether it is enabled, and so is each composition that it is a part of."""
        return self._enabled and all(composition.active for composition in compositions_with(self))

    # taking away ---------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Take the adaptation off the model. With the last one, the model is bit for bit what it was.

        Raises:
            CompositionError: it is merged; ``unmerge()`` first, or ``commit()`` to keep the merged weights.
        """
        self.require("attached", "detach")
        refuse_part(self, "detach")
        for binding in reversed(self.bindings):
            binding.detach(self.model)
        selection.release(self.model, self)
        forget(self)

    # algebra and files ---------------------------------------------------------------------------------------------

    def merge_reasons(self, *, in_memory: bool = True) -> list[str]:
        """Why the adaptation cannot be merged into the base weights; empty if it can, exactly.

        Args:
            in_memory: False to leave out that weights may not be there to be written into: what holds for a model on
                the meta device, once it has weights.
        """
        return merging.reasons(self, self.bindings, self.copies, in_memory)

    def merge(self) -> None:
        """Write the adaptation into the base weights; the forward pass is then the plain model's.

        The weights as they were are kept aside for :meth:`unmerge`.

        Raises:
            CompositionError: the algebra does not allow it; names the slot and the reason. Nothing was changed.
        """
        self.require("attached", "merge")
        refuse_part(self, "merge")
        self.base_fingerprint()  # of the base as it is before
        merging.merge(self, self.bindings, self.copies)
        self.state = "merged"

    def unmerge(self) -> None:
        """Put the base weights back, bit for bit, and bind the functions again.

        Raises:
            CompositionError: another adaptation was merged into the same weights since.
        """
        self.require("merged", "unmerge")
        merging.unmerge(self, self.bindings, self.copies)
        self.state = "attached"
        selection.refresh(self.model)

    def commit(self) -> None:
        """Keep the merged weights for good and forget the adaptation; what remains is a plain model."""
        self.require("merged", "commit")
        keep_merged(self)
        forget(self, new_base=True)

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
        tensors, metadata = self.saved_state(for_training=for_training)
        return writing.write(Path(folder), self._described(tensors, for_training), tensors, metadata)

    def saved_state(self, *, for_training: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What :meth:`save` writes into the tensor file: the tensors by name, and the file's metadata.

        Works on the meta device too, where it says names and shapes.

        Args:
            for_training: as in :meth:`save`.
        """
        tensors = self._folded() if self._folds(for_training) else self.state_dict()
        return tensors, {"format": "refarch", "technique": self.technique.name}

    def saved_bytes(self, *, for_training: bool = False) -> int:
        """How many bytes :meth:`save` writes, both files together. Exact, without writing; on the meta device too.

        Args:
            for_training: as in :meth:`save`.
        """
        tensors, metadata = self.saved_state(for_training=for_training)
        return writing.size(self._described(tensors, for_training), tensors, metadata)

    def _folds(self, for_training: bool) -> bool:
        """Whether saving drops what only training needs."""
        train_only = any(insertion.spec.train_only for insertion in self.insertions)
        return train_only and not for_training and not self.folded

    def _folded(self) -> dict[str, Tensor]:
        tensors = {name: tensor for name, tensor in self.state_dict().items() if name.startswith("base:")}
        tree = deepcopy(self.tree)
        fold(tree)
        own = [*tree.named_parameters(), *tree.named_buffers()]  # what is shared once, unlike in a state dict
        return tensors | {name: tensor.detach() for name, tensor in own}

    def _described(self, tensors: Mapping[str, Tensor], for_training: bool) -> Described:
        """Everything that a checkpoint holds but the tensors."""
        return Described(
            name=self.name,
            technique=self.technique,
            source=self.source,
            family=self.family.name,
            seed=self.seed,
            train_head=self.train_head,
            folded=self._folds(for_training) or self.folded,
            base=self.base_fingerprint(),
            auto_class=provenance.auto_class(self.model, self.family),
            labels=provenance.labels(self.model),
            versions=provenance.versions(self.technique.technique, self.source, self.family),
            slot_map=self.slot_map,
            shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        )

    def base_fingerprint(self) -> Fingerprint:
        """The identity of the base that this adaptation belongs to."""
        host = Host.of(self.model)
        if host is None:
            return fingerprint(self.model, self._head_paths())
        if host.fingerprint is None:
            host.fingerprint = fingerprint(self.model, self._head_paths())
        return host.fingerprint

    def _head_paths(self) -> list[str]:
        return [place.path for place in self.resolver.head()]

    def __repr__(self) -> str:
        model = type(self.model).__name__
        return f"<Adaptation {self.name!r}: {self.technique.name} on {model}, {self.count():,} trainable, {self.state}>"


def adaptations(model: nn.Module) -> tuple[Adaptation, ...]:
    """The adaptations on a model, in the order of attachment."""
    host = Host.of(model)
    return tuple(own for own in host.order if isinstance(own, Adaptation)) if host else ()
