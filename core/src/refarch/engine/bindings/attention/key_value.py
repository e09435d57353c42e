"""Functions at ``key_value``: tokens before a model's own keys and values, or beside them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from refarch.architecture import ModuleSpec
from refarch.engine.bindings.attention.call import AttentionCall
from refarch.engine.bindings.attention.seam import AttentionSeam
from refarch.engine.bindings.binding import Binding
from refarch.engine.bindings.carrier import Carrier
from refarch.engine.bindings.dispatch import Dispatcher
from refarch.engine.bindings.owner import Owner
from refarch.engine.functions.function import Function
from refarch.engine.functions.gate import GateModule
from refarch.engine.layers.linear import take_part
from refarch.engine.layers.precision import cast_for
from refarch.engine.slots.site import Site


class KeyValueBinding(Binding):
    """A function bound at ``key_value``: its tokens stand before the base's keys and values, or beside them.

    Before them, [P_k; K], [P_v; V] equal past key values without positions of their own (Li & Liang 2021, arXiv
    2101.00190), or with those of tokens before the first, where position biases count them.
    """

    def __init__(
        self, owner: Owner, spec: ModuleSpec, site: Site, function: Function, gate: GateModule | None = None
    ) -> None:
        super().__init__(owner, spec, site, function, gate)
        if gate is not None and gate.weight is not None:
            self.carrier = Carrier(owner)
        self.past = 0  # tokens of the sequence that a call has in its cache

    @property
    def seam(self) -> AttentionSeam:
        """Where it runs."""
        return AttentionSeam.there(self.site.end.module)

    def attach(self, model: PreTrainedModel) -> None:
        """Put the binding at the attention module, and the seam on the model."""
        AttentionSeam.at(self.site.end.module, model).add(self)
        self._attach_helpers()

    def detach(self, model: PreTrainedModel) -> None:
        """Take the binding away, and with the last one the seam."""
        self._detach_helpers()
        self.seam.leave(self, model)

    def weight_reason(self) -> str:
        """Why it is no weight."""
        return "attention over tokens of its own is a gated addition that depends on the input, not a weight"

    def keys_and_values(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """P_k and P_v, [l, width]."""
        tokens = self.function()  # l d_in, or keys and values
        if not self.spec.projected:
            return tokens  # type: ignore[no-any-return]
        return tuple(take_part(_project(place.module, tokens.to(dtype)), place.part) for place in self.site.projections)

    def __call__(
        self, inner: Callable[[AttentionCall], Tensor], x: AttentionCall, leaf: nn.Module | None = None
    ) -> Tensor:
        """A_k from A_(k-1) = ``inner``, [b, t, h, dim]."""
        return inner(self.extended(x)) if self.spec.integration == "concatenation" else self.add(inner(x), x)

    def add(self, y: Tensor, x: AttentionCall) -> Tensor:
        """The attention so far, [b, t, h, dim], with the attention over the tokens alone added, gated."""
        keys, values = self.keys_and_values(x.key.dtype)
        own = x.over(_by_head(keys, x.key), _by_head(values, x.value))
        g = self._gate(y)
        assert self.gate is not None and g is not None
        return ((1 - g) * y if self.gate.convex else y) + g * own

    def _gate(self, like: Tensor) -> Tensor | None:
        """G, [1] or [b, 1 or t, 1, 1], in another tensor's dtype; None without a gate."""
        if self.gate is None:
            return None
        if self.carrier is None:
            return self.gate.value().to(like.dtype)
        mean = self.tokens and self.tokens.mean
        return self.gate(cast_for(self.gate, self.carrier.take()), mean).unsqueeze(-1).to(like.dtype)

    def extended(self, x: AttentionCall) -> AttentionCall:
        """The tokens before a call's own keys and values."""
        keys, values = self.keys_and_values(x.key.dtype)
        keys, values = _by_head(keys, x.key), _by_head(values, x.value)  # b kv heads l dim
        g = self._gate(x.key)
        if g is not None:
            keys, values = g * keys, g * values
        return x.before(keys, values, bias=self._bias(keys.shape[2], x) if self.spec.counted else None)

    def _bias(self, length: int, x: AttentionCall) -> Tensor:
        """The position biases of tokens before the first of the sequence, [1, h, t, l]."""
        found: Tensor = self.site.position_bias.compute_bias(  # type: ignore[union-attr,operator]
            x.query.shape[2], length, device=x.query.device, past_seen_tokens=self.past + length
        )
        return found


def _by_head(tokens: Tensor, states: Tensor) -> Tensor:
    """tokens: [l, kv heads * dim], states: [b, kv heads, s, dim] -> [b, kv heads, l, dim]."""
    batch, heads, _, dim = states.shape
    own = tokens.reshape(-1, heads, dim).transpose(0, 1).to(states.dtype)  # heads l dim
    return own.expand(batch, -1, -1, -1)


def _project(module: nn.Module, tokens: Tensor) -> Tensor:
    """What a layer's projection, with all that is attached to it, makes of tokens: [l, d_in] -> [l, width].

    A sublayer's carrier on that projection holds what the sublayer reads, which these tokens are not.
    """
    dispatcher = Dispatcher.of(module)
    carriers = [binding for binding in dispatcher.bindings if isinstance(binding, Carrier)] if dispatcher else []
    held = [carrier.held for carrier in carriers]
    projected: Tensor = module(tokens[None])[0]
    for carrier, before in zip(carriers, held, strict=True):
        carrier.held = before
    return projected
