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
from typing import Any, Self

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from refarch.engine.bindings.attention.call import AttentionCall, explicit_mask
from refarch.engine.bindings.binding import Binding
from refarch.engine.bindings.hooks import find_cache
from refarch.engine.bindings.seam import Seam
from refarch.errors import CompositionError, SlotError

PREFIX = "refarch_"
SUPPORTED = ("sdpa", "eager")


class AttentionSeam(Seam):
    """What joins one attention module whenever it attends."""

    key = "_refarch_attention"

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.handle = module.register_forward_pre_hook(_before, with_kwargs=True)

    @classmethod
    def at(cls, module: nn.Module, model: PreTrainedModel) -> Self:
        """The seam of a module, put there if need be, and the wrapper set on the model.

        Raises:
            SlotError: the model's attention cannot be reached so.
        """
        install(model)
        return cls.of(module) or cls(module)

    def leave(self, binding: Any, model: PreTrainedModel) -> None:
        """Take a binding away, and with the model's last one the wrapper."""
        self.remove(binding)
        if not any(self.of(each) for each in model.modules()):
            uninstall(model)

    def close(self) -> None:
        """Take the hook away."""
        self.handle.remove()
        super().close()


def _seam(implementation: str) -> Callable[..., Any]:
    """The wrapper of one attention implementation."""

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        """query: [b, h, t, dim], key and value: [b, kv heads, s, dim], attention_mask: [b, 1, 1 or t, s] or None."""
        seam = AttentionSeam.of(module)
        guests = [guest for guest in seam.bindings if guest.enabled] if seam else []
        for guest in guests:
            if guest.spec.form == "attention":  # it attends elsewhere, over the tokens that are seen here
                guest.note(key.shape[2], explicit_mask(module, query, key, attention_mask, kwargs))
        call = AttentionCall(
            module, attention_function(implementation, module), query, key, value, attention_mask, kwargs
        )
        if seam and seam.groups:
            return _composed(call, seam.running)
        bound = [guest for guest in guests if guest.spec.form == "tokens"]
        longer = [binding for binding in bound if binding.spec.integration == "concatenation"]
        added = [binding for binding in bound if binding.spec.integration != "concatenation"]
        for binding in longer:
            call = binding.extended(call)
        result = call.attend()
        if not added:
            return result
        y = result[0]  # b t h dim
        for binding in added:
            y = binding.add(y, call)
        return (y, *result[1:])

    return attend


def _composed(call: AttentionCall, running: list[Any]) -> Any:
    """One call with what runs at the module, of which some are groups."""
    rest: list[tuple[Any, ...]] = []  # what else the function returns: attention weights, in its first call

    def plain(call: AttentionCall) -> Tensor:
        result = call.attend()
        if not rest:
            rest.append(tuple(result[1:]))
        return result[0]  # type: ignore[no-any-return]

    inner: Any = plain
    for item in running:
        if isinstance(item, Binding) and item.spec.form == "attention":
            continue  # it joins where the sublayer ends
        if item.enabled:
            inner = functools.partial(item, inner, leaf=None)
    y = inner(call)
    return (y, *rest[0])


def attention_function(implementation: str, module: nn.Module) -> Callable[..., Any]:
    """What a module calls under an attention implementation; each family has an eager function of its own."""
    if implementation in ALL_ATTENTION_FUNCTIONS.valid_keys():
        return ALL_ATTENTION_FUNCTIONS[implementation]
    return sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[no-any-return]


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
    for guest in AttentionSeam.there(module).bindings:
        if guest.spec.form == "attention":
            guest.cache = find_cache((*args, *kwargs.values())) if guest.enabled else None
        if guest.spec.counted:
            cache = find_cache((*args, *kwargs.values()))
            guest.past = 0 if cache is None else int(cache.get_seq_length(module.layer_idx))  # type: ignore[arg-type]
