"""The call context: what the tokens of the present call are, for each stack of layers.

A module of a technique sees hidden states, not which of them are padding, nor whether earlier tokens are in a cache.
The module that runs the stack sees both, so a hook there notes them for whatever inside the stack asks: gates by
example, and modules that work at some positions. The hooks are there only while somebody needs them.

With gradient checkpointing a layer runs again in the backward pass, when the stack's call is long over and another one
may have followed. So while a call lasts, what it checkpoints is made to bring the call along.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from refarch.engine.bindings.hooks import CopiedMethod, find_cache
from refarch.engine.bindings.owner import Owner
from refarch.engine.slots.site import Site
from refarch.errors import CompositionError

CheckpointFunction = Callable[..., Any]
"""(function, its arguments) -> what it returns, to be computed again in the backward pass."""

_KEY = "_refarch_context"
_CHECKPOINT = "_gradient_checkpointing_func"
"""Under which name transformers puts the checkpointing function at each module that uses one."""
_OF_ENCODER = ("cross_attention.key", "cross_attention.value", "cross_attention.key_norm")
"""The slots of a decoder at which the encoder's tokens are."""


def reads_encoder(site: Site) -> bool:
    """Whether the tokens at a decoder's site are the encoder's, which are all there from the first step on."""
    return site.ref.slot.name in _OF_ENCODER


@dataclasses.dataclass(frozen=True)
class StackCall:
    """What the tokens of one call of a stack are.

    Attributes:
        real: [b, s], true where a token is real; the last t columns are the call's own tokens, those before are in the
            cache. None: all are.
        of_encoder: the same of the encoder's tokens that a decoder attends to, [b, s of the encoder].
        earlier: number of tokens in the cache, padding included; 0 unless a sequence goes on.
        shape: b and t.
    """

    real: Tensor | None
    of_encoder: Tensor | None
    earlier: int
    shape: tuple[int, int]

    def at(self, rows: Callable[[int], Tensor]) -> StackCall:
        """The same of some rows.

        Args:
            rows: gives their indices among so many.
        """
        real, of_encoder = (
            mask if mask is None or mask.shape[0] == 1 else mask[rows(mask.shape[0]).to(mask.device)]
            for mask in (self.real, self.of_encoder)
        )
        return StackCall(real, of_encoder, self.earlier, (len(rows(self.shape[0])), self.shape[1]))


class StackHooks:
    """The hooks of one stack.

    Args:
        stack: the module that takes the mask and the cache.

    Attributes:
        call: the call that the stack is in, or that a layer of it runs again for.
    """

    def __init__(self, stack: nn.Module) -> None:
        self.stack = stack
        self.users: list[SiteTokens] = []
        self.names = list(inspect.signature(stack.forward).parameters)
        self.call: StackCall | None = None
        self.checkpointed: list[tuple[nn.Module, CheckpointFunction]] = []
        stack.__dict__[_KEY] = self
        self.handles = [
            stack.register_forward_pre_hook(CopiedMethod(self, "begin"), with_kwargs=True),
            stack.register_forward_hook(CopiedMethod(self, "end"), always_call=True),
        ]

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self.handles:
            handle.remove()
        del self.stack.__dict__[_KEY]

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what the stack gets. SiteTokens that were put in front are in it: that hook runs before all others."""
        if not any(user.enabled for user in self.users):
            return
        values = {**dict(zip(self.names, args, strict=False)), **kwargs}
        tokens = values.get("inputs_embeds") if values.get("input_ids") is None else values["input_ids"]
        assert tokens is not None
        cache = find_cache(values.values())
        self.call = StackCall(
            _real(values.get("attention_mask")),
            _real(values.get("encoder_attention_mask")),
            int(cache.get_seq_length()) if cache is not None else 0,
            (tokens.shape[0], tokens.shape[1]),
        )
        if self.stack.training and not torch.compiler.is_compiling():  # a compiled graph holds what it runs again
            self._follow()

    def end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The call is over."""
        self.call = None
        while self.checkpointed:
            each, function = self.checkpointed.pop()
            each.__dict__[_CHECKPOINT] = function

    def _follow(self) -> None:
        """Let what is checkpointed in this call bring the call along when it runs again."""
        for each in self.stack.modules():
            function = each.__dict__.get(_CHECKPOINT)
            if function is not None:
                self.checkpointed.append((each, function))
                each.__dict__[_CHECKPOINT] = functools.partial(self._checkpoint, function)

    def _checkpoint(
        self, checkpoint: CheckpointFunction, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        return checkpoint(functools.partial(self._within, self.call, function), *args, **kwargs)

    def _within(self, call: StackCall | None, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a function in the call that it was first run in."""
        before, self.call = self.call, call
        try:
            return function(*args, **kwargs)
        finally:
            self.call = before


class SiteTokens:
    """What a binding asks about the tokens at its site.

    Args:
        owner: the binding's adaptation.
        site: its place, within a layer or after the last one.
    """

    def __init__(self, owner: Owner, site: Site) -> None:
        self.owner, self.site = owner, site
        assert site.stack_module is not None
        self.stack = site.stack_module
        self.rows: Callable[[int], Tensor] | None = None
        """Of a binding that gets some rows of the batch: gives their indices among so many; None where it gets all."""

    @property
    def enabled(self) -> bool:
        """Whether the adaptation takes part."""
        return self.owner.enabled

    def attach(self) -> None:
        """Put the hooks at the stack, if nobody has yet."""
        context = self.stack.__dict__.get(_KEY)
        if context is None:
            context = StackHooks(self.stack)
        context.users.append(self)

    def detach(self) -> None:
        """Take them away, if nobody else needs them."""
        context: StackHooks = self.stack.__dict__[_KEY]
        context.users.remove(self)
        if not context.users:
            context.remove()

    def call(self) -> StackCall:
        """The call that the stack is in.

        Raises:
            CompositionError: it is in none.
        """
        call: StackCall | None = self.stack.__dict__[_KEY].call
        if call is None:
            raise CompositionError(
                f"{self.site.address}: which tokens are real is known within a call of the model, and this is none",
                "call the model, not a layer of it",
            )
        return call if self.rows is None else call.at(self.rows)

    def present(self, x: Tensor, first: int, last: int) -> Tensor:
        """At which tokens a module works.

        Args:
            x: [b, t, d]; or [b * t, d], where a layer has all tokens in one row.
            first: how many at the beginning of the sequence.
            last: how many at its end, if it begins in this call.

        Returns:
            [b or 1, t, 1], or [b * t, 1]; true where it does.
        """
        if x.ndim == 2:
            x = self._by_example(x)
            return self.present(x, first, last).expand(*x.shape[:2], 1).flatten(0, 1)
        call, real, t = self.call(), self.real(x, whole=True), x.shape[1]
        earlier = 0 if reads_encoder(self.site) else call.earlier
        if real is None:
            real = torch.ones(1, earlier + t, dtype=torch.bool, device=x.device)
        found = real & (real.cumsum(dim=1) <= first)  # b s
        if not earlier:
            found = found | (real & (real.flip(1).cumsum(dim=1).flip(1) <= last))
        return found[:, -t:].unsqueeze(-1)

    def real(self, x: Tensor, whole: bool = False) -> Tensor | None:
        """X: [b, t, d] -> [b, t], true where a token is real; None if all are.

        Args:
            x: activations.
            whole: also of those in the cache, which come before.

        Raises:
            CompositionError: the mask is of other tokens than x, or there is no call.
        """
        call = self.call()
        real = call.of_encoder if reads_encoder(self.site) else call.real
        if real is None:
            return None
        tokens = x.shape[1] + (call.earlier if not reads_encoder(self.site) else 0)
        if x.ndim != 3 or real.shape[0] != x.shape[0] or real.shape[1] < tokens:
            raise CompositionError(
                f"{self.site.address}: the mask {tuple(real.shape)} does not belong to activations {tuple(x.shape)}",
                "choose other slots: here the layer has no longer one row of activations for each token",
            )
        return real[:, -tokens if whole else -x.shape[1] :]

    def mean(self, x: Tensor) -> Tensor:
        """Each example's mean over its real tokens, to be broadcast over them.

        While generating with a cache it is over the new tokens alone.

        Args:
            x: [b, t, d]; or [b * t, d], where a layer has all tokens in one row (OPT's feed-forward layers do).

        Returns:
            [b, 1, d], or [b * t, d].
        """
        if x.ndim == 2:
            x = self._by_example(x)
            return self.mean(x).expand(*x.shape[:2], -1).flatten(0, 1)
        real = self.real(x)
        if real is None:
            return x.mean(dim=1, keepdim=True)
        real = real.unsqueeze(-1)  # b t 1
        # What stands at padding may be anything, even not finite; an example without a token has the mean 0.
        return x.masked_fill(~real, 0).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True).clamp(min=1)

    def _by_example(self, x: Tensor) -> Tensor:
        """[b * t, d] -> [b, t, d].

        Raises:
            CompositionError: these are not the call's tokens.
        """
        b, t = self.call().shape
        if x.shape[0] != b * t:
            raise CompositionError(
                f"{self.site.address}: {x.shape[0]} rows of activations are not the {b} x {t} tokens of the call",
                "choose other slots: an example's tokens are not all here",
            )
        return x.unflatten(0, (b, t))


def _real(mask: Any) -> Tensor | None:
    """An attention mask as booleans, [b, s].

    Raises:
        CompositionError: it is none of that shape.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        shape = f"of {mask.ndim} dimensions" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise CompositionError(
            f"which tokens are real is read from a mask of shape [batch, tokens], but this one is {shape}",
            "give the model that mask; generate with the default dynamic cache, a static one prepares its masks before",
        )
    return mask != 0
