"""Functions of form attention: tokens attend to each other, beside the base's self-attention or after it.

What a function makes of the hidden states at the ``attention`` sublayer are queries, keys and values of its own. The
engine's part is the attention itself, once for all of them:

    attend(q, k, v) = softmax(q k^T / sqrt(dim) + mask) v

over the tokens that the base's own attention sees there, with the mask that it gets there: causal, padding, a sliding
window; position biases are the base's own affair. The mask is noted where the base attends, before a prefix makes it
longer, and is used where the sublayer ends. While generating with a cache, the keys and values of earlier tokens come
from there (:mod:`refarch.engine.bindings.attention.own_cache`). So a function knows no backbone, no mask and no cache.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from refarch.architecture import ModuleSpec
from refarch.engine.bindings.attention.own_cache import remember
from refarch.engine.bindings.attention.seam import AttentionSeam
from refarch.engine.bindings.module import ModuleBinding
from refarch.engine.bindings.owner import Owner
from refarch.engine.functions.function import Function
from refarch.engine.functions.gate import GateModule
from refarch.engine.slots.site import Site
from refarch.errors import CompositionError


class Seen(NamedTuple):
    """What the base's attention sees in one call."""

    tokens: int
    """How many; the last ones of all so far, where a sliding window has left earlier ones behind."""
    mask: Tensor | None
    """[b or 1, 1, 1 or t, tokens]: true where a token is seen, or what is added to the scores; None for all."""


class SelfAttentionBinding(ModuleBinding):
    """A function of form attention, bound at the ``attention`` sublayer."""

    def __init__(
        self, owner: Owner, spec: ModuleSpec, site: Site, function: Function, gate: GateModule | None = None
    ) -> None:
        super().__init__(owner, spec, site, function, gate)
        self.seen: Seen | None = None
        self.cache: Cache | None = None

    def attach(self, model: PreTrainedModel) -> None:
        """Put the binding where the sublayer ends, and at the seam where it attends."""
        assert self.site.attends is not None
        AttentionSeam.at(self.site.attends.module, model).add(self)
        super().attach(model)

    def detach(self, model: PreTrainedModel) -> None:
        """Take both away again."""
        assert self.site.attends is not None
        super().detach(model)
        AttentionSeam.there(self.site.attends.module).leave(self, model)

    def note(self, tokens: int, mask: Tensor | None) -> None:
        """Keep what the base's attention sees until the sublayer ends."""
        self.seen = Seen(tokens, mask)

    def _contribution(self, x: Tensor) -> Tensor:
        """M(x); the binding holds nothing between forward passes."""
        seen, cache = self.seen, self.cache
        self.seen = self.cache = None
        if seen is None:
            raise CompositionError(
                f"{self.site.address}: the sublayer has ended without the attention function being called",
                "is the family's table right? attention.key_value is the module that calls it",
            )

        def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # b heads t dim
            if cache is not None:
                k, v = self._with_earlier(cache, k, v)
            k, v = k[:, :, -seen.tokens :], v[:, :, -seen.tokens :]
            return F.scaled_dot_product_attention(q, k, v, _mask_for(q, seen.mask), dropout).transpose(1, 2)

        return self.function(x, attend)  # type: ignore[no-any-return]

    def _with_earlier(self, cache: Cache, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """[b, heads, t, dim] -> [b, heads, all tokens so far, dim]."""
        assert self.site.attends is not None
        name = f"{self.owner.name}.{self.spec.name}.{self.site.address}"
        layer = self.site.attends.module.layer_idx  # by which a module of transformers knows its place in a cache
        assert isinstance(layer, int)
        return remember(cache, name, layer, self.site.shape.layers, k, v)


def _mask_for(q: Tensor, mask: Tensor | None) -> Tensor | None:
    """A mask of the base's for scores of another dtype: its lowest value must not become minus infinity.

    Raises:
        CompositionError: it differs between the base's heads.
    """
    if mask is not None and mask.shape[1] != 1:
        raise CompositionError(
            f"the attention mask differs between the base's {mask.shape[1]} heads, which attention that was added does"
            " not have",
            "give one mask for all heads",
        )
    if mask is None or mask.dtype == torch.bool:
        return mask
    lowest = max(torch.finfo(mask.dtype).min, torch.finfo(q.dtype).min)
    return mask.clamp(min=lowest).to(q.dtype)
