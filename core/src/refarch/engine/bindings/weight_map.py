"""The algebra of weights: whether a binding's map is a weight of its layer, and which one.

With W and b the weight [d_out, d_in] and bias [d_out] of the map inside, D the function's matrix and g a learned gate:

====================  ==========================================================
parallel addition     W + g s D,   b
sequential addition   W + g s D W, b + g s D b
convex gate           (1 - g) W and (1 - g) b in the place of W and b that stand alone
rescaling             diag(M()) W, M() * b at an output; W diag(M()) at an input
transformation        M(W), b
====================  ==========================================================

of the rows that are the slot's own, where a fused projection has several parts.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from torch import Tensor

from refarch.architecture import ModuleSpec
from refarch.architecture.properties import ADDITIVE
from refarch.engine.bindings.carrier import Carrier
from refarch.engine.functions.function import Function
from refarch.engine.functions.gate import GateModule
from refarch.engine.layers.linear import put_part, take_part
from refarch.engine.layers.precision import parameter_dtype
from refarch.engine.slots.site import Site
from refarch.errors import CompositionError

Weights = tuple[Tensor, Tensor | None]


class WeightMap:
    """A function at a site as a change of the layer's weight.

    Args:
        spec: the module spec.
        site: where.
        function: the built function.
        gate: the gate of a gated addition.
    """

    def __init__(self, spec: ModuleSpec, site: Site, function: Function, gate: GateModule | None) -> None:
        self.spec, self.site, self.function, self.gate = spec, site, function, gate
        self.parallel = spec.insertion == "parallel"

    def reason(self) -> str:
        """Why the map is no weight of the layer; empty if it is, whether or not one can write that."""
        spec, site = self.spec, self.site
        if spec.form == "attention":
            return (
                "what its tokens find in each other depends on the input, and is no weight (functional form: attention)"
            )
        if site.ref.slot.kind != "linear":
            return f"slot {str(site.ref)!r} is of kind {site.ref.slot.kind}, not a linear map"
        if spec.form not in ("linear", "vector") and spec.integration != "transformation":
            return f"the function is not linear (functional form: {spec.form})"
        if spec.integration in ADDITIVE:
            for _, function in self.function.members():
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

    def merged(self, weight: Tensor, bias: Tensor | None) -> Weights:
        """The weight [d_out, d_in] and bias [d_out] with which the layer alone computes this map.

        Raises:
            CompositionError: the algebra does not allow it; the reason is given.
        """
        reason = self.reason()
        if reason:
            raise CompositionError(f"{self.site.address}: cannot merge: {reason}")
        if self.spec.integration == "rescaling" and self.site.ref.side == "input":
            return weight * self.function().to(weight.dtype), bias
        part = self.site.end.part
        own, own_bias = self._rows(take_part(weight, part, 0), None if bias is None else take_part(bias, part))
        if bias is not None and own_bias is not None:
            bias = put_part(bias, part, own_bias)
        return put_part(weight, part, own, 0), bias

    def _rows(self, weight: Tensor, bias: Tensor | None) -> Weights:
        """Of the rows that are the slot's own."""
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

    def writes(self) -> tuple[str, ...]:
        """Which of the layer's parameters merging changes."""
        if self.spec.integration == "rescaling":
            return ("weight",) if self.site.ref.side == "input" else ("weight", "bias")
        if self.spec.integration == "transformation":
            return ("weight",)
        keeps_bias = self.parallel and not (self.gate is not None and self.gate.convex)
        return ("weight",) if keeps_bias else ("weight", "bias")

    def commutes(self, other: WeightMap) -> bool:
        """Whether the order of two maps at one module does not matter."""
        first, second = self._kind(), other._kind()
        if "none" in (first, second):
            return False
        parts = (self.site.end.part, other.site.end.part)
        if None not in parts and parts[0] != parts[1]:
            return True  # they write different rows
        return first == second or {first, second} == {"input", "output"}

    def _kind(self) -> str:
        """Which commuting family the map belongs to."""
        if self.spec.integration == "rescaling":  # factors may depend on what they rescale
            return self.site.ref.side if self.spec.inter == "fixed" else "none"
        additive = self.spec.integration in ("direct addition", "scaled addition")
        return "sum" if additive and self.parallel and self.spec.form == "linear" else "none"


def changes_weights(item: object) -> TypeGuard[Any]:
    """Whether what runs at a module may change the map there: carriers do not."""
    return not isinstance(item, Carrier)
