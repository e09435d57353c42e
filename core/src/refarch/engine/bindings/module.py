"""The integration forms at a module, each once: how a function's output joins the base's, and how it merges.

With F_(k-1) the map so far, x its input and y = F_(k-1)(x):

====================  ==========================================================
direct addition       y + M(.)
scaled addition       y + s M(.)
gated addition        y + g M(.), or (1 - g) y + g M(.)
rescaling             y * M() at an output; F_(k-1)(x * M()) at an input
transformation        F_(k-1) with its weight W replaced by M(W)
====================  ==========================================================

where M reads x when it is inserted in parallel and y when it is inserted sequentially. Concatenation joins sequences
and lives in :mod:`refarch.engine.bindings.inputs` and :mod:`refarch.engine.bindings.attention.seam`; selection in
:mod:`refarch.engine.host.selection`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refarch.architecture import ModuleSpec
from refarch.architecture.properties import ADDITIVE
from refarch.engine.bindings.call_context import Tokens
from refarch.engine.bindings.dispatch import Dispatcher
from refarch.engine.bindings.seam import Inner
from refarch.engine.functions.experts import own_functions
from refarch.engine.functions.function import Function
from refarch.engine.functions.gate import GateModule
from refarch.engine.functions.low_rank import LowRank, can_fuse
from refarch.engine.layers.linear import matrix, plain_reason, put_part, take_part
from refarch.engine.layers.precision import autocasts, cast_for, parameter_dtype
from refarch.engine.slots.site import Site
from refarch.errors import CompositionError

if TYPE_CHECKING:
    from refarch.engine.adaptation.adaptation import Adaptation


class Carrier:
    """Hands what a sublayer reads from its first leaf to its last one, within one forward pass of the layer."""

    def __init__(self, owner: Adaptation) -> None:
        self.owner = owner
        self.held: Tensor | None = None
        self.keeps = False
        """Whether what was noted may be taken several times; whoever sets it lets go of it after the last leaf."""

    @property
    def enabled(self) -> bool:
        """Whether the adaptation takes part."""
        return self.owner.enabled

    def __call__(self, inner: Inner, x: Tensor, leaf: nn.Module | None) -> Tensor:
        """Note x on its way through."""
        self.held = x
        return inner(x)

    def take(self) -> Tensor:
        """What was noted; a carrier holds nothing between forward passes."""
        held = self.held
        if not self.keeps:
            self.held = None
        assert held is not None, "the sublayer's last leaf ran before its first one"
        return held


class Bound:
    """A function bound at a site: one of the forms above.

    Args:
        owner: the adaptation; its ``enabled`` switches the binding.
        spec: the module spec.
        site: where.
        function: the built function.
        gate: the gate of a gated addition.
    """

    def __init__(
        self, owner: Adaptation, spec: ModuleSpec, site: Site, function: Function, gate: GateModule | None = None
    ) -> None:
        self.owner, self.spec, self.site, self.function, self.gate = owner, spec, site, function, gate
        self.parallel = spec.insertion == "parallel"
        self.carrier = Carrier(owner) if self.parallel and site.entry is not None else None
        self.tokens = Tokens(owner, site) if spec.asks_for_tokens else None
        self.inside: list[Any] | None = None
        """What is inside this binding in a composition that runs it; else the dispatcher says."""
        self.form = {"rescaling": self._rescale, "transformation": self._transform}.get(spec.integration, self._add)

    @property
    def enabled(self) -> bool:
        """Whether the adaptation takes part."""
        return self.owner.enabled

    def attach(self) -> None:
        """Put the binding, and the carrier that it needs, at the model's modules."""
        if self.carrier is not None:
            assert self.site.entry is not None
            Dispatcher.at(self.site.entry.module).add(self.carrier)
        Dispatcher.at(self.site.end.module).add(self)
        if self.tokens is not None:
            self.tokens.attach()

    def detach(self) -> None:
        """Take them away again."""
        if self.tokens is not None:
            self.tokens.detach()
        dispatcher = Dispatcher.of(self.site.end.module)
        assert dispatcher is not None
        dispatcher.remove(self)
        if self.carrier is not None and self.site.entry is not None:
            entry = Dispatcher.of(self.site.entry.module)
            assert entry is not None
            entry.remove(self.carrier)

    def __call__(self, inner: Inner, x: Tensor, leaf: nn.Module | None) -> Tensor:
        """F_k(x)."""
        return self.form(inner, x, leaf)

    # forward -------------------------------------------------------------------------------------------------------

    def _add(self, inner: Inner, x: Tensor, leaf: nn.Module | None) -> Tensor:
        function, part = self.function, self.site.end.part
        plain = part is None and self._is_plain()
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
        g = self.gate(cast_for(self.gate, read), self.tokens).to(y.dtype)
        base = (1 - g) * y if self.gate.convex else y
        return base + g * out.to(y.dtype)

    def _contribution(self, x: Tensor) -> Tensor:
        """M(x)."""
        return self.function(x)  # type: ignore[no-any-return]

    def _is_plain(self) -> bool:
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
        weight, bias = self.effective(in_memory)
        weight, bias = self.merged(weight, bias)
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    # algebra -------------------------------------------------------------------------------------------------------

    def _inner_bias(self, in_memory: bool) -> Tensor | None:
        bias = getattr(self.site.end.module, "bias", None)
        return bias if not self._inner() else self.effective(in_memory)[1]

    def _inner(self) -> list[Any]:
        inside = self.inside
        if inside is None:
            dispatcher = Dispatcher.of(self.site.end.module)
            assert dispatcher is not None
            inside = dispatcher.inner_to(self)
        return [binding for binding in inside if binding.enabled and changes_weights(binding)]

    def effective(self, in_memory: bool = True) -> tuple[Tensor, Tensor | None]:
        """Weight [d_out, d_in] and bias of the map inside this binding.

        Args:
            in_memory: False where the whole model is on the meta device.

        Raises:
            CompositionError: something inside is no linear map of what the layer reads.
        """
        module = self.site.end.module
        weight, bias = matrix(module, in_memory), getattr(module, "bias", None)
        for binding in self._inner():
            weight, bias = binding.merged(weight, bias)
        return weight, bias

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The weight [d_out, d_in] and bias [d_out] with which the layer alone computes this binding's map.

        Raises:
            CompositionError: the algebra does not allow it; the reason is given.
        """
        reason = self.algebra_reason()
        if reason:
            raise CompositionError(f"{self.site.address}: cannot merge: {reason}")
        if self.spec.integration == "rescaling" and self.site.ref.side == "input":
            return weight * self.function().to(weight.dtype), bias
        part = self.site.end.part
        own, own_bias = self._merged_rows(take_part(weight, part, 0), None if bias is None else take_part(bias, part))
        if bias is not None and own_bias is not None:
            bias = put_part(bias, part, own_bias)
        return put_part(weight, part, own, 0), bias

    def _merged_rows(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        function = self.function
        if self.spec.integration == "rescaling":
            factors = function().to(weight.dtype)
            return weight * factors[:, None], None if bias is None else bias * factors
        if self.spec.integration == "transformation":
            return function.transform(weight.to(parameter_dtype(function, weight.dtype))).to(weight.dtype), bias
        delta = function.delta().to(weight.dtype)
        if self.spec.integration == "scaled addition":
            delta = delta * function.scale
        keep: Tensor | float = 1.0
        if self.gate is not None:
            g = self.gate.value().to(weight.dtype)
            delta, keep = g * delta, (1 - g if self.gate.convex else 1.0)
        if self.parallel:
            return keep * weight + delta, None if bias is None else keep * bias
        return keep * weight + delta @ weight, None if bias is None else keep * bias + delta @ bias

    def merge_reason(self, in_memory: bool = True) -> str:
        """Why this binding does not merge into the layer's weight; empty if it does.

        Args:
            in_memory: whether a weight that is not in memory counts as a reason.
        """
        return self.algebra_reason() or plain_reason(self.site.end.module, in_memory)

    def algebra_reason(self) -> str:
        """Why this binding's map is no weight of the layer; empty if it is, whether or not one can write that."""
        spec, site = self.spec, self.site
        if site.ref.slot.kind != "linear":
            return f"slot {str(site.ref)!r} is of kind {site.ref.slot.kind}, not a linear map"
        if spec.form not in ("linear", "vector") and spec.integration != "transformation":
            return f"the function is not linear (functional form: {spec.form})"
        if spec.integration in ADDITIVE:
            for _, function in own_functions(self.function):
                if type(function).delta is Function.delta:
                    return f"{type(function).__name__} offers no weight delta"
        if self.gate is not None and spec.gate is not None and spec.gate.by != "learned":
            return f"its gate depends on the input (by {spec.gate.by})"
        if spec.positions is not None:
            return "it works at some tokens only, and a weight is the same for all"
        if spec.router is not None and spec.routing != "fixed":
            return f"its experts are mixed by the input (routing: {spec.routing})"
        if spec.inter == "dynamic":
            return "inter-connectivity is dynamic: the map depends on the input"
        return ""

    def writes(self) -> tuple[str, ...]:
        """Which of the layer's parameters merging changes."""
        if self.spec.integration == "rescaling":
            return ("weight",) if self.site.ref.side == "input" else ("weight", "bias")
        if self.spec.integration == "transformation":
            return ("weight",)
        keeps_bias = self.parallel and not (self.gate is not None and self.gate.convex)
        return ("weight",) if keeps_bias else ("weight", "bias")

    def commutes(self, other: Bound) -> bool:
        """Whether the order of two bindings at one module does not matter."""
        first, second = self._kind(), other._kind()
        if "none" in (first, second):
            return False
        parts = (self.site.end.part, other.site.end.part)
        if None not in parts and parts[0] != parts[1]:
            return True  # they write different rows
        return first == second or {first, second} == {"input", "output"}

    def _kind(self) -> str:
        """Which commuting family the map belongs to."""
        if self.spec.integration == "rescaling":
            return (
                self.site.ref.side if self.spec.inter == "fixed" else "none"
            )  # factors may depend on what they rescale
        additive = self.spec.integration in ("direct addition", "scaled addition")
        return "sum" if additive and self.parallel and self.spec.form == "linear" else "none"


def changes_weights(binding: object) -> bool:
    """Whether what runs at a module may change the map there: carriers do not."""
    return hasattr(binding, "merged")
