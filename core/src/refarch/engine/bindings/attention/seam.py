"""The attention seam: one function between every family's queries, keys and values and its attention kernel.

transformers looks its attention function up by name at each call. Attaching at ``attention.key_value`` registers a
wrapper of the model's own implementation (with that implementation's mask function, without which the mask would be
dropped) and sets it on the model. With nothing attached to a module, the wrapper passes everything on untouched.

With A(q, K, V) the attention so far and P_k, P_v the function's tokens as keys and values, what joins here computes

==============  ================================================================
concatenation   A(q, [P_k; K], [P_v; V]), or with a gate A(q, [g P_k; K], [g P_v; V])
gated addition  y + g a, or (1 - g) y + g a, with y = A(q, K, V) and a the model's
                own attention of q over P_k, P_v alone: a softmax of its own,
                without mask, position bias or dropout
==============  ================================================================

where g is learned, or computed from what the attention reads: the input of the query projection, carried from there.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from refarch.engine.bindings.attention.call import States, explicit_mask
from refarch.engine.bindings.hooks import find_cache
from refarch.engine.bindings.seam import Group, arranged
from refarch.errors import CompositionError, SlotError

PREFIX = "refarch_"
SUPPORTED = ("sdpa", "eager")
_KEY = "_refarch_key_value"
_KEY_HANDLE = "_refarch_key_value_check"
_KEY_GROUPS = "_refarch_key_value_groups"


def _seam(implementation: str) -> Callable[..., Any]:
    """The wrapper of one attention implementation."""

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        """query: [b, h, t, dim], key and value: [b, kv heads, s, dim], attention_mask: [b, 1, 1 or t, s] or None."""
        guests = [guest for guest in module.__dict__.get(_KEY, ()) if guest.enabled]
        for guest in guests:
            if guest.spec.form == "attention":  # it attends elsewhere, over the tokens that are seen here
                guest.note(key.shape[2], explicit_mask(module, query, key, attention_mask, kwargs))
        states = States(module, attention_function(implementation, module), query, key, value, attention_mask, kwargs)
        groups = module.__dict__.get(_KEY_GROUPS)
        if groups:
            return _composed(states, arranged(module.__dict__[_KEY], groups))
        bound = [guest for guest in guests if guest.spec.form == "tokens"]
        longer = [binding for binding in bound if binding.spec.integration == "concatenation"]
        added = [binding for binding in bound if binding.spec.integration != "concatenation"]
        for binding in longer:
            states = binding.extended(states)
        result = states.attend()
        if not added:
            return result
        y = result[0]  # b t h dim
        for binding in added:
            y = binding.add(y, states)
        return (y, *result[1:])

    return attend


def _composed(states: States, running: list[Any]) -> Any:
    """One call with what runs at the module, of which some are groups."""
    rest: list[tuple[Any, ...]] = []  # what else the function returns: attention weights, in its first call

    def plain(states: States) -> Tensor:
        result = states.attend()
        if not rest:
            rest.append(tuple(result[1:]))
        return result[0]  # type: ignore[no-any-return]

    inner: Any = plain
    for item in running:
        if item.enabled and getattr(item, "spec", None) is not None and item.spec.form == "attention":
            continue  # it joins where the sublayer ends
        if item.enabled:
            inner = functools.partial(item, inner, leaf=None)
    y = inner(states)
    return (y, *rest[0])


def attention_function(implementation: str, module: nn.Module) -> Callable[..., Any]:
    """What a module calls under an attention implementation; each family has an eager function of its own."""
    if implementation in ALL_ATTENTION_FUNCTIONS.valid_keys():
        return ALL_ATTENTION_FUNCTIONS[implementation]
    return sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[no-any-return]


def join(model: PreTrainedModel, module: nn.Module, guest: object) -> None:
    """Let the seam call a binding whenever an attention module attends; with the first one, set the seam on the model.

    Raises:
        SlotError: the model's attention cannot be reached so.
    """
    install(model)
    module.__dict__.setdefault(_KEY, []).append(guest)
    if _KEY_HANDLE not in module.__dict__:
        module.__dict__[_KEY_HANDLE] = module.register_forward_pre_hook(_before, with_kwargs=True)


def leave(model: PreTrainedModel, module: nn.Module, guest: object) -> None:
    """Take a binding away, and with the model's last one the seam."""
    module.__dict__[_KEY].remove(guest)
    if not module.__dict__[_KEY]:
        del module.__dict__[_KEY]
        module.__dict__.pop(_KEY_HANDLE).remove()
    if not any(_KEY in each.__dict__ for each in model.modules()):
        uninstall(model)


def group(module: nn.Module, group: Group) -> None:
    """Let a group run in the place of the guests of an attention module that it covers."""
    module.__dict__.setdefault(_KEY_GROUPS, []).append(group)


def ungroup(module: nn.Module, group: Group) -> None:
    """Let its guests run by themselves again."""
    module.__dict__[_KEY_GROUPS].remove(group)
    if not module.__dict__[_KEY_GROUPS]:
        del module.__dict__[_KEY_GROUPS]


def install(model: PreTrainedModel) -> None:
    """Set the wrapper of the model's own attention implementation on the model.

    Raises:
        SlotError: the implementation gives no access to masks (flash, flex attention).
    """
    current = str(model.config._attn_implementation)
    if current.startswith(PREFIX):
        return
    if current not in SUPPORTED:
        raise SlotError(
            f"nothing can join attention under the implementation {current!r}",
            f"load the model with attn_implementation= one of {', '.join(SUPPORTED)}",
        )
    name = PREFIX + current
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        AttentionInterface.register(name, _seam(current))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[current])
    model.set_attn_implementation(name)
    if model.config._attn_implementation != name:
        raise SlotError(
            f"{type(model).__name__} does not let its attention function be set, so nothing can join its attention"
        )


def uninstall(model: PreTrainedModel) -> None:
    """Set the model's own attention implementation again."""
    current = str(model.config._attn_implementation)
    if current.startswith(PREFIX):
        model.set_attn_implementation(current.removeprefix(PREFIX))


def _before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A hook of the attention module: refuse to run without the seam, and note the cache for those who need one.

    Raises:
        CompositionError: the model's attention implementation was changed after attaching.
    """
    current = str(getattr(getattr(module, "config", None), "_attn_implementation", PREFIX))
    if not current.startswith(PREFIX):
        raise CompositionError(
            f"the model's attention implementation was changed to {current!r} while something is attached to attention",
            "detach first, change the implementation, and attach again",
        )
    for guest in module.__dict__[_KEY]:
        if guest.spec.form == "attention":
            guest.cache = find_cache((*args, *kwargs.values())) if guest.enabled else None
        if guest.spec.counted:
            cache = find_cache((*args, *kwargs.values()))
            guest.past = 0 if cache is None else int(cache.get_seq_length(module.layer_idx))  # type: ignore[arg-type]
