"""Concatenation at ``inputs``: tokens before the embedded sequence, without the model's user noticing.

A pre-forward hook on the stack's own module embeds the ids, puts the tokens in front and extends the mask, position ids
and token types; a forward hook cuts the tokens' positions off what comes out, so logits and labels line up. In an
encoder-decoder the encoder's output keeps them, for the decoder to attend to. While generating with a cache, the tokens
are in the cache after the first pass, and only the mask and positions are extended.
"""

from __future__ import annotations

import inspect
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from refarch.engine.bindings.binding import Binding
from refarch.engine.bindings.hooks import CopiedMethod, find_cache
from refarch.engine.bindings.seam import Seam
from refarch.engine.slots.site import InputStack, Site
from refarch.errors import CompositionError


class InputsBinding(Binding):
    """A function bound at ``inputs``: [M(); tokens] (Lester et al. 2021, arXiv 2104.08691)."""

    @property
    def seam(self) -> InputsSeam:
        """Where it runs."""
        return InputsSeam.there(self.site.end.module)

    def attach(self, model: PreTrainedModel) -> None:
        """Put the tokens before the stack's inputs."""
        InputsSeam.at(self.site).add(self)

    def detach(self, model: PreTrainedModel) -> None:
        """Take them away again."""
        self.seam.remove(self)

    def weight_reason(self) -> str:
        """Why it is no weight."""
        return "tokens at the inputs are read by every layer; no weight of one layer stands for them"


class InputsSeam(Seam):
    """The hooks of one stack; the first of all, so that others see the tokens.

    Where a composition gives rows of a batch tokens of different lengths, shorter ones have padding that the mask
    hides: a decoder's before them, with positions that do not count it; an encoder's behind the sequence, where it
    moves nothing.

    Args:
        module: the module that takes ids, embeddings and the mask.
        stack: what belongs to it.
    """

    key = "_refarch_inputs"

    def __init__(self, module: nn.Module, stack: InputStack) -> None:
        super().__init__(module)
        self.embedding, self.is_encoder = stack.embedding, stack.decoder is not None
        self.first, self.causal = stack.first, stack.causal
        self.padding: Tensor | None = None
        self.names = list(inspect.signature(module.forward).parameters)
        self.cut, self.total, self.length = 0, 0, 0
        self.handles = [
            module.register_forward_pre_hook(CopiedMethod(self, "before"), prepend=True, with_kwargs=True),
            module.register_forward_hook(CopiedMethod(self, "after"), with_kwargs=True),
        ]
        if stack.decoder is not None:
            self.handles.append(
                stack.decoder.register_forward_pre_hook(CopiedMethod(self, "widen"), prepend=True, with_kwargs=True)
            )
        if stack.body is not None:
            self.handles.append(stack.body.register_forward_hook(CopiedMethod(self, "after_body")))

    @classmethod
    def at(cls, site: Site) -> Self:
        """The seam of a site's stack, put there if need be."""
        assert site.inputs is not None
        return cls.of(site.end.module) or cls(site.end.module, site.inputs)

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self.handles:
            handle.remove()
        super().close()

    def tokens(self, rows: int) -> tuple[Tensor | None, Tensor | None]:
        """All enabled tokens, [1 or rows, l, d], the last adaptation's first; and how many of each row's are padding.

        Args:
            rows: how many the batch has.
        """
        found = []
        for item in reversed(self.running):
            if item.enabled:
                found.append(item.tokens_by_row(rows) if item in self.groups else item.function())
        if not any(isinstance(item, list) for item in found):
            return (torch.cat(found)[None] if found else None), None
        each = [torch.cat([item[i] if isinstance(item, list) else item for item in found]) for i in range(rows)]
        length = max(len(own) for own in each)
        padding = torch.tensor([length - len(own) for own in each], device=each[0].device)
        stacked = torch.stack([F.pad(own, (0, 0, length - len(own), 0)) for own in each])  # rows l d
        return (stacked if length else None), padding if bool(padding.any()) else None

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Extend what the stack gets."""
        self.cut, self.padding = 0, None
        values = {**dict(zip(self.names, args, strict=False)), **kwargs}
        given = values.get("inputs_embeds") if values.get("input_ids") is None else values["input_ids"]
        if given is None:
            return None
        tokens, self.padding = self.tokens(given.shape[0])
        if tokens is None:
            return None
        self.length = length = tokens.shape[1]
        cache = find_cache(values.values())
        cached = int(cache.get_seq_length()) if cache is not None else 0
        if self.padding is not None:
            self._say_positions(values, given, length, cached)
        if not cached:
            embedded = values.get("inputs_embeds")
            if embedded is None:
                embedded = self.embedding(values["input_ids"])  # b t d
                if self.first and values.get("position_ids") is None:
                    values["position_ids"] = _after_padding(values["input_ids"], self.first)
            front = tokens.to(embedded.dtype).expand(embedded.shape[0], -1, -1)
            values["inputs_embeds"], values["input_ids"] = torch.cat([front, embedded], dim=1), None
            self.cut, self.total = 0 if self.is_encoder else length, length + embedded.shape[1]
        _extend(values, length, bool(cached), self.first, self.padding)
        if self.padding is not None and not self.causal:
            for name in ("inputs_embeds", "attention_mask", "position_ids", "token_type_ids"):
                if values.get(name) is not None:
                    values[name] = _rolled(values[name], self.padding)
        return (), {name: value for name, value in values.items() if name in kwargs or value is not None}

    def _say_positions(self, values: dict[str, Any], given: Tensor, length: int, cached: int) -> None:
        """What padding changes must be said: the mask, and a decoder's positions, which would count it."""
        if values.get("attention_mask") is None:
            values["attention_mask"] = torch.ones(
                given.shape[0], given.shape[1] + max(0, cached - length), dtype=torch.long, device=given.device
            )
        if not self.causal or values.get("position_ids") is not None:
            return
        if "position_ids" not in self.names:
            raise CompositionError(
                f"{type(self.module).__name__} takes no positions, so tokens of different lengths cannot stand before"
                " the rows of one batch",
                "use prompts of one length in one batch",
            )
        start = max(0, cached - length)
        places = torch.arange(start, start + given.shape[1], device=given.device)
        values["position_ids"] = places.expand(given.shape[0], -1)

    def widen(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the decoder attend to the encoded tokens: its mask gains as many as the encoder's output is longer."""
        mask, states = kwargs.get("encoder_attention_mask"), kwargs.get("encoder_hidden_states")
        if states is None or (mask is None and self.padding is None):
            return None
        if mask is None:
            mask = states.new_ones(states.shape[0], self.total - self.length, dtype=torch.long)
        if mask.shape[-1] == states.shape[1]:
            return None
        mask = torch.cat([_front_mask(mask, states.shape[1] - mask.shape[-1], self.padding), mask], dim=1)
        if self.padding is not None:
            mask = _rolled(mask, self.padding.repeat_interleave(mask.shape[0] // len(self.padding)))
        return args, {**kwargs, "encoder_attention_mask": mask}

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
        if states.shape[1] != self.total:
            return states
        if self.padding is not None and not self.causal:
            states = _rolled(states, -self.padding)
        return states[:, self.cut :]

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


def _rolled(values: Tensor, by: Tensor) -> Tensor:
    """Each row of [b, s, ...] moved to the left by its own number of places, [b]; what leaves comes in behind."""
    if values.shape[0] == 1:
        values = values.expand(len(by), *values.shape[1:])
    places = (torch.arange(values.shape[1], device=values.device) + by.to(values.device)[:, None]) % values.shape[1]
    return values[torch.arange(len(by), device=values.device)[:, None], places]


def _front_mask(like: Tensor, length: int, padding: Tensor | None) -> Tensor:
    """[b, l] of a mask's kind: one where a token in front is real."""
    if padding is None:
        return like.new_ones(like.shape[0], length)
    times = like.shape[0] // len(padding)  # beams stand one after another
    real = torch.arange(length, device=like.device) >= padding.to(like.device)[:, None]
    return real.to(like.dtype).repeat_interleave(times, dim=0)


def _extend(values: dict[str, Any], length: int, cached: bool, first: int, padding: Tensor | None) -> None:
    """Make mask, positions and token types fit ``length`` more tokens in front, of which some are padding; sequences
    begin at ``first``.
    """
    mask = values.get("attention_mask")
    if mask is not None:
        if mask.ndim != 2:
            raise CompositionError(
                f"tokens at the inputs need a mask of shape [batch, tokens], not of {mask.ndim} dimensions",
                "generate with the default dynamic cache; a static cache prepares its masks beforehand",
            )
        values["attention_mask"] = torch.cat([_front_mask(mask, length, padding), mask], dim=1)
    positions = values.get("position_ids")
    if positions is not None:
        missing = 0 if padding is None else padding[:, None].to(positions.device)  # b 1
        moved = torch.where(positions < first, positions, positions + length - missing)  # what is before is padding
        if not cached:
            front = torch.arange(first, first + length, device=positions.device).expand(moved.shape[0], -1)
            moved = torch.cat([(front - missing).clamp(min=first), moved], dim=1)
        values["position_ids"] = moved
    types = values.get("token_type_ids")
    if types is not None and not cached:
        values["token_type_ids"] = torch.cat([types.new_zeros(types.shape[0], length), types], dim=1)
