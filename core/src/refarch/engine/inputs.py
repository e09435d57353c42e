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
from refarch.engine.function import Function
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

    def merge_reason(self) -> str:
        """Why it does not merge."""
        return "tokens at the inputs are read by every layer; no weight of one layer stands for them"


class InputsSeam:
    """The hooks of one stack.

    Args:
        stack: the module that takes ids, embeddings and the mask.
        embedding: the token embedding.
        decoder: the stack that attends to this one's output, if any.
        pooler: a module inside the stack that reads its whole output, if any.
    """

    def __init__(
        self, stack: nn.Module, embedding: nn.Module, decoder: nn.Module | None, pooler: nn.Module | None
    ) -> None:
        self.stack, self.embedding, self.is_encoder = stack, embedding, decoder is not None
        self.bindings: list[InputsBound] = []
        self.names = list(inspect.signature(stack.forward).parameters)
        self.cut = 0
        stack.__dict__[_KEY] = self
        self.handles = [
            stack.register_forward_pre_hook(_Method(self, "before"), with_kwargs=True),
            stack.register_forward_hook(_Method(self, "after"), with_kwargs=True),
        ]
        if decoder is not None:
            self.handles.append(decoder.register_forward_pre_hook(_widen_cross_mask, with_kwargs=True))
        if pooler is not None:
            self.handles.append(pooler.register_forward_pre_hook(_Method(self, "before_pooler")))

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
        pooler_path = resolver.stacks[0].pooler
        pooler = submodule(resolver.base, pooler_path) if pooler_path else None
        return cls(bound.site.end.module, entry.module, decoder, pooler)

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
        cache = values.get("past_key_values")
        cached = cache is not None and int(cache.get_seq_length()) > 0
        if not cached:
            embedded = values.get("inputs_embeds")
            if embedded is None:
                embedded = self.embedding(values["input_ids"])  # b t d
            front = tokens.to(embedded.dtype).expand(embedded.shape[0], -1, -1)
            values["inputs_embeds"], values["input_ids"] = torch.cat([front, embedded], dim=1), None
            self.cut = 0 if self.is_encoder else length
        _extend(values, length, cached)
        return (), {name: value for name, value in values.items() if name in kwargs or value is not None}

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Cut the tokens' positions off."""
        cut, self.cut = self.cut, 0
        if not cut:
            return output
        if isinstance(output, tuple):
            total = output[0].shape[1]
            rest = (tuple(s[:, cut:] for s in item) if _are_states(item, total) else item for item in output[1:])
            return (output[0][:, cut:], *rest)
        output.last_hidden_state = output.last_hidden_state[:, cut:]
        if output.get("hidden_states") is not None:
            output.hidden_states = tuple(state[:, cut:] for state in output.hidden_states)
        return output

    def before_pooler(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """The pooler reads the sequence without the tokens."""
        return (args[0][:, self.cut :], *args[1:]) if self.cut else None


def _are_states(item: Any, tokens: int) -> bool:
    """Whether an entry of an output tuple is the hidden states of all layers, each [b, tokens, d]."""
    return isinstance(item, tuple) and all(
        isinstance(state, Tensor) and state.ndim == 3 and state.shape[1] == tokens for state in item
    )


class _Method:
    """A hook that stays bound to its seam's copy when the model is copied (a bound method would not)."""

    def __init__(self, seam: InputsSeam, name: str) -> None:
        self.seam, self.name = seam, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.seam, self.name)(*args, **kwargs)


def _extend(values: dict[str, Any], length: int, cached: bool) -> None:
    """Make mask, positions and token types fit ``length`` more tokens in front."""
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
        moved = positions + length
        if not cached:
            front = torch.arange(length, device=positions.device).expand(positions.shape[0], -1)
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
