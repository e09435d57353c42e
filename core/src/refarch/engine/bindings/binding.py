"""A function joined to a model at one site: what all kinds of bindings have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

from transformers import PreTrainedModel

from refarch.architecture import ModuleSpec
from refarch.engine.bindings.call_context import SiteTokens
from refarch.engine.bindings.carrier import Carrier
from refarch.engine.bindings.dispatch import Dispatcher
from refarch.engine.bindings.owner import Owner
from refarch.engine.bindings.seam import Seam
from refarch.engine.functions.function import Function
from refarch.engine.functions.gate import GateModule
from refarch.engine.slots.site import Site


class Binding(ABC):
    """A function at a site.

    Args:
        owner: what it belongs to, whose ``enabled`` switches it.
        spec: the module spec.
        site: where.
        function: the built function.
        gate: the gate of a gated addition, if it has one.

    Attributes:
        carrier: brings what it reads from an earlier module of the layer, where it reads that.
        tokens: says which tokens are real, where the spec asks for it.
        group: what runs in its place in a composition; None while it runs by itself.
    """

    def __init__(
        self, owner: Owner, spec: ModuleSpec, site: Site, function: Function, gate: GateModule | None = None
    ) -> None:
        self.owner, self.spec, self.site, self.function, self.gate = owner, spec, site, function, gate
        self.carrier: Carrier | None = None
        self.tokens = SiteTokens(owner, site) if spec.asks_for_tokens else None
        self.group: object | None = None

    @property
    def enabled(self) -> bool:
        """Whether its owner takes part."""
        return self.owner.enabled

    @property
    @abstractmethod
    def seam(self) -> Seam:
        """Where it runs, while it is attached."""

    @abstractmethod
    def attach(self, model: PreTrainedModel) -> None:
        """Put it at the model's modules, with what it needs there."""

    @abstractmethod
    def detach(self, model: PreTrainedModel) -> None:
        """Take it away again."""

    @abstractmethod
    def weight_reason(self) -> str:
        """Why its map is no weight of a layer; empty if it is, whether or not one can write that."""

    def merge_reason(self, in_memory: bool = True) -> str:
        """Why it does not merge into a layer's weight; empty if it does.

        Args:
            in_memory: whether a weight that is not in memory counts as a reason.
        """
        return self.weight_reason()

    def _attach_helpers(self) -> None:
        if self.carrier is not None:
            assert self.site.entry is not None
            Dispatcher.at(self.site.entry.module).add(self.carrier)
        if self.tokens is not None:
            self.tokens.attach()

    def _detach_helpers(self) -> None:
        if self.tokens is not None:
            self.tokens.detach()
        if self.carrier is not None:
            assert self.site.entry is not None
            Dispatcher.there(self.site.entry.module).remove(self.carrier)
