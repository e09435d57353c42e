"""The integration forms at a module, each once: how a function's output joins the base's.

With F_(k-1) the map so far, x its input and y = F_(k-1)(x):

====================  ==========================================================
direct addition       y + M(.)
scaled addition       y + s M(.)
gated addition        y + g M(.), or (1 - g) y + g M(.)
rescaling             y * M() at an output; F_(k-1)(x * M()) at an input
transformation        F_(k-1) with its weight W replaced by M(W)
====================  ==========================================================

where M reads x when it is inserted in parallel and y when it is inserted sequentially. Concatenation joins sequences
and lives in :mod:`refarch.engine.bindings.inputs` and :mod:`refarch.engine.bindings.attention.key_value`; selection in
:mod:`refarch.engine.host.selection`; the same forms as weights in :mod:`refarch.engine.bindings.weight_map`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from refarch.architecture import ModuleSpec
from refarch.engine.bindings.binding import Binding
from refarch.engine.bindings.carrier import Carrier
from refarch.engine.bindings.dispatch import Dispatcher
from refarch.engine.bindings.owner import Owner
from refarch.engine.bindings.seam import Inner
from refarch.engine.bindings.weight_map import WeightMap, changes_weights
from refarch.engine.functions.function import Function
from refarch.engine.functions.gate import GateModule
from refarch.engine.functions.low_rank import LowRank, can_fuse
from refarch.engine.layers.linear import bias_of, matrix, plain_reason, put_part, take_part
from refarch.engine.layers.precision import autocasts, cast_for
from refarch.engine.slots.site import Site


class ModuleBinding(Binding):
    """A function bound at a module: one of the forms above.

    Attributes:
        inside: what is inside this binding in a composition that runs it; else the dispatcher says.
    """

    def __init__(
        self, owner: Owner, spec: ModuleSpec, site: Site, function: Function, gate: GateModule | None = None
    ) -> None:
        super().__init__(owner, spec, site, function, gate)
        self.parallel = spec.insertion == "parallel"
        if self.parallel and site.entry is not None:
            self.carrier = Carrier(owner)
        self.inside: list[Any] | None = None
        self.form = {"rescaling": self._rescale, "transformation": self._transform}.get(spec.integration, self._add)

    @property
    def seam(self) -> Dispatcher:
        """Where it runs."""
        return Dispatcher.there(self.site.end.module)

    def attach(self, model: PreTrainedModel) -> None:
        """Put the binding, and the carrier that it needs, at the model's modules."""
        self._attach_helpers()
        Dispatcher.at(self.site.end.module).add(self)

    def detach(self, model: PreTrainedModel) -> None:
        """Take them away again."""
        self.seam.remove(self)
        self._detach_helpers()

    def __call__(self, inner: Inner, x: Tensor, leaf: nn.Module | None) -> Tensor:
        """F_k(x)."""
        return self.form(inner, x, leaf)

    # forward -------------------------------------------------------------------------------------------------------

    def _add(self, inner: Inner, x: Tensor, leaf: nn.Module | None) -> Tensor:
        function, part = self.function, self.site.end.part
        plain = part is None and self.is_plain()
        if plain and leaf is not None and self.parallel and self.carrier is None and can_fuse(leaf, function, x):
            return function(x, base=leaf)  # type: ignore[no-any-return]
        y = inner(x)
        own = take_part(y, part)
        added = self._added(x, own, plain)
        where = self.spec.positions
        if where is not None:
            assert self.tokens is not None
            added = torch.where(self.tokens.present(own, int(where.first), int(where.last)), added, own)
        return put_part(y, part, added)

    def _added(self, x: Tensor, y: Tensor, plain: bool) -> Tensor:
        """y: the base's output, or its part; returns it with the contribution."""
        read = y if not self.parallel else x if self.carrier is None else self.carrier.take()
        function = self.function
        own = cast_for(function, read)
        computed = torch.get_autocast_dtype(y.device.type) if autocasts(y) else own.dtype
        if plain and computed == y.dtype:
            return function(own, into=y)  # type: ignore[no-any-return]
        out = self._contribution(own)
        if self.spec.integration == "scaled addition":
            out = out * function.scale
        if self.gate is None:
            return y + out.to(y.dtype)
        g = self.gate(cast_for(self.gate, read), self.tokens and self.tokens.mean).to(y.dtype)
        base = (1 - g) * y if self.gate.convex else y
        return base + g * out.to(y.dtype)

    def _contribution(self, x: Tensor) -> Tensor:
        """M(x)."""
        return self.function(x)  # type: ignore[no-any-return]

    def is_plain(self) -> bool:
        """Whether y + scale * up(down(x)) is what this binding computes, so that the function may do the sum itself."""
        function = self.function
        return (
            isinstance(function, LowRank)
            and type(function).forward is LowRank.forward
            and self.gate is None
            and self.spec.positions is None
            and isinstance(function.scale, (int, float))
            and (self.spec.integration == "scaled addition" or function.scale == 1)
        )

    def _rescale(self, inner: Inner, x: Tensor, leaf: nn.Module | None) -> Tensor:
        if self.site.ref.side == "input":
            return inner(x * self._factors(x))
        y, part = inner(x), self.site.end.part
        own = take_part(y, part)
        return put_part(y, part, own * self._factors(own))

    def _factors(self, read: Tensor) -> Tensor:
        """M(), [width]; or, routed by what is rescaled, a mixture for each position, [..., width]."""
        found = self.function(cast_for(self.function, read)) if self.spec.router is not None else self.function()
        return found.to(read.dtype)  # type: ignore[no-any-return]

    def _transform(self, inner: Inner, x: Tensor, leaf: nn.Module | None) -> Tensor:
        function, part, in_memory = self.function, self.site.end.part, not x.is_meta
        if (function.on_input is not None or function.on_output is not None) and part is None:
            read = x if function.on_input is None else function.on_input(cast_for(function, x)).to(x.dtype)
            y = inner(read)
            if function.on_output is None:
                return y
            bias = self._inner_bias(in_memory)
            turned = function.on_output(cast_for(function, y if bias is None else y - bias))
            return (turned if bias is None else turned + bias).to(y.dtype)
        weight, bias = self.merged(*self.effective(in_memory))
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    # weights -------------------------------------------------------------------------------------------------------

    def _inner_bias(self, in_memory: bool) -> Tensor | None:
        bias = bias_of(self.site.end.module)
        return bias if not self._inner() else self.effective(in_memory)[1]

    def _inner(self) -> list[Any]:
        inside = self.inside
        if inside is None:
            inside = self.seam.inner_to(self)
        return [binding for binding in inside if binding.enabled and changes_weights(binding)]

    def effective(self, in_memory: bool = True) -> tuple[Tensor, Tensor | None]:
        """Weight [d_out, d_in] and bias of the map inside this binding.

        Args:
            in_memory: False where the whole model is on the meta device.

        Raises:
            CompositionError: something inside is no linear map of what the layer reads.
        """
        module = self.site.end.module
        weight, bias = matrix(module, in_memory), bias_of(module)
        for binding in self._inner():
            weight, bias = binding.merged(weight, bias)
        return weight, bias

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See :meth:`WeightMap.merged`."""
        return self.weights.merged(weight, bias)

    @functools.cached_property
    def weights(self) -> WeightMap:
        """The same as a change of the layer's weight."""
        return WeightMap(self.spec, self.site, self.function, self.gate)

    def weight_reason(self) -> str:
        """Why this binding's map is no weight of the layer; empty if it is, whether or not one can write that."""
        return self.weights.reason()

    def merge_reason(self, in_memory: bool = True) -> str:
        """Why this binding does not merge into the layer's weight; empty if it does.

        Args:
            in_memory: whether a weight that is not in memory counts as a reason.
        """
        return self.weight_reason() or plain_reason(self.site.end.module, in_memory)
