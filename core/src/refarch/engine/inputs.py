"""Concatenation at ``inputs``: tokens before the embedded sequence, without the model's user noticing.

A pre-forward hook on the stack's own module embeds the ids, puts the tokens in front and extends the mask, position ids
and token types; a forward hook cuts the tokens' positions off what comes out, so logits and labels line up. In an
encoder-decoder the encoder's output keeps them, for the decoder to attend to. While generating with a cache, the tokens
are in the cache after the first pass, and only the mask and positions are extended.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from refarch.architecture import ModuleSpec
from refarch.engine.cache import find_cache
from refarch.engine.function import Function
from refarch.engine.hook import Method
from refarch.engine.sites import Site, submodule
from refarch.errors import CompositionError

if TYPE_CHECKING:
    from refarch.engine.adaptation import Adaptation

_KEY = "_refarch_inputs"


class InputsBound:
    """A function bound at ``inputs``: [M(); tokens] (Lester et al. 2021, arXiv 2104.08691)."""

    def __init__(self, owner: Adaptation, spec: ModuleSpec, site: Site, function: Function) -> None:
        self.owner, self.spec, self.site, self.function = owner, spec, site, function

    @property
    def enabled(self) -> bool:
        """Whether the adaptation takes part."""
        return self.owner.enabled

    def attach(self) -> None:
        """Put the tokens before the stack's inputs."""
        InputsSeam.at(self).bindings.append(self)

    def detach(self) -> None:
        """Take them away again."""
        seam: InputsSeam = self.site.end.module.__dict__[_KEY]
        seam.bindings.remove(self)
        if not seam.bindings:
            seam.remove()

    def merge_reason(self, in_memory: bool = True) -> str:
        """Why it does not merge."""
        return "tokens at the inputs are read by every layer; no weight of one layer stands for them"


class InputsSeam:
    """The hooks of one stack; the first of all, so that others see the tokens.

    Args:
        stack: the module that takes ids, embeddings and the mask.
        embedding: the token embedding.
        decoder: the stack that attends to this one's output, if any.
        body: the module inside the stack whose output the stack reads on, if any.
        first: the position of a sequence's first token.
    """

    def __init__(
        self, stack: nn.Module, embedding: nn.Module, decoder: nn.Module | None, body: nn.Module | None, first: int
    ) -> None:
        self.stack, self.embedding, self.is_encoder = stack, embedding, decoder is not None
        self.first = first
        self.bindings: list[InputsBound] = []
        self.names = list(inspect.signature(stack.forward).parameters)
        self.cut, self.total = 0, 0
        stack.__dict__[_KEY] = self
        self.handles = [
            stack.register_forward_pre_hook(Method(self, "before"), prepend=True, with_kwargs=True),
            stack.register_forward_hook(Method(self, "after"), with_kwargs=True),
        ]
        if decoder is not None:
            self.handles.append(decoder.register_forward_pre_hook(_widen_cross_mask, prepend=True, with_kwargs=True))
        if body is not None:
            self.handles.append(body.register_forward_hook(Method(self, "after_body")))

    @classmethod
    def at(cls, bound: InputsBound) -> InputsSeam:
        """The seam of the stack that a binding belongs to, put there if need be."""
        existing = bound.site.end.module.__dict__.get(_KEY)
        if existing is not None:
            return existing  # type: ignore[no-any-return]
        resolver, entry = bound.owner.resolver, bound.site.entry
        assert entry is not None
        others = resolver.stacks[1:]
        decoder = submodule(resolver.base, others[0].module) if others else None
        table = resolver.stacks[0]
        body = submodule(resolver.base, table.body) if table.body else None
        first = int(resolver.model.config.pad_token_id) + 1 if table.positions == "after padding" else 0
        return cls(bound.site.end.module, entry.module, decoder, body, first)

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self.handles:
            handle.remove()
        del self.stack.__dict__[_KEY]

    def tokens(self) -> Tensor | None:
        """All enabled tokens, [l, d]; the last adaptation's first."""
        found = [binding.function() for binding in reversed(self.bindings) if binding.enabled]
        return torch.cat(found) if found else None

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Extend what the stack gets."""
        self.cut = 0
        tokens = self.tokens()
        if tokens is None:
            return None
        values = {**dict(zip(self.names, args, strict=False)), **kwargs}
        length = tokens.shape[0]
        cache = find_cache(values.values())
        cached = cache is not None and int(cache.get_seq_length()) > 0
        if not cached:
            embedded = values.get("inputs_embeds")
            if embedded is None:
                embedded = self.embedding(values["input_ids"])  # b t d
                if self.first and values.get("position_ids") is None:
                    values["position_ids"] = _after_padding(values["input_ids"], self.first)
            front = tokens.to(embedded.dtype).expand(embedded.shape[0], -1, -1)
            values["inputs_embeds"], values["input_ids"] = torch.cat([front, embedded], dim=1), None
            self.cut, self.total = 0 if self.is_encoder else length, length + embedded.shape[1]
        _extend(values, length, cached, self.first)
        return (), {name: value for name, value in values.items() if name in kwargs or value is not None}

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Cut the tokens' positions off."""
        output = self.after_body(module, args, output)
        self.cut = 0
        return output

    def after_body(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Cut them off where the stack reads on, too: a pooler gets the sequence without the tokens."""
        if not self.cut:
            return output
        if isinstance(output, tuple):
            return (self._own(output[0]), *(self._own_states(item) for item in output[1:]))
        output.last_hidden_state = self._own(output.last_hidden_state)
        if output.get("hidden_states") is not None:
            output.hidden_states = self._own_states(output.hidden_states)
        return output

    def _own(self, states: Tensor) -> Tensor:
        """[b, l + t, d] -> [b, t, d], unless it is that already."""
        return states[:, self.cut :] if states.shape[1] == self.total else states

    def _own_states(self, item: Any) -> Any:
        """The hidden states of all layers, each without the tokens; any other entry of an output as it is."""
        lengths = (self.total, self.total - self.cut)
        if isinstance(item, tuple) and all(
            isinstance(state, Tensor) and state.ndim == 3 and state.shape[1] in lengths for state in item
        ):
            return tuple(self._own(state) for state in item)
        return item


def _after_padding(ids: Tensor, first: int) -> Tensor:
    """[b, t] -> [b, t]: positions from ``first`` on over the tokens that are no padding, which stays before that."""
    real = (ids != first - 1).long()
    return real.cumsum(dim=1) * real + first - 1


def _extend(values: dict[str, Any], length: int, cached: bool, first: int) -> None:
    """Make mask, positions and token types fit ``length`` more tokens in front; sequences begin at ``first``."""
    mask = values.get("attention_mask")
    if mask is not None:
        if mask.ndim != 2:
            raise CompositionError(
                f"tokens at the inputs need a mask of shape [batch, tokens], not of {mask.ndim} dimensions",
                "generate with the default dynamic cache; a static cache prepares its masks beforehand",
            )
        values["attention_mask"] = torch.cat([mask.new_ones(mask.shape[0], length), mask], dim=1)
    positions = values.get("position_ids")
    if positions is not None:
        moved = torch.where(positions < first, positions, positions + length)  # what is before is padding
        if not cached:
            front = torch.arange(first, first + length, device=positions.device).expand(positions.shape[0], -1)
            moved = torch.cat([front, moved], dim=1)
        values["position_ids"] = moved
    types = values.get("token_type_ids")
    if types is not None and not cached:
        values["token_type_ids"] = torch.cat([types.new_zeros(types.shape[0], length), types], dim=1)


def _widen_cross_mask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Let the decoder attend to the encoded tokens: the mask gains as many ones as the encoder's output is longer."""
    mask, states = kwargs.get("encoder_attention_mask"), kwargs.get("encoder_hidden_states")
    if mask is None or states is None or mask.shape[-1] == states.shape[1]:
        return None
    missing = states.shape[1] - mask.shape[-1]
    return args, {**kwargs, "encoder_attention_mask": torch.cat([mask.new_ones(mask.shape[0], missing), mask], dim=1)}
