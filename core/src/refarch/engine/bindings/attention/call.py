"""One call of the attention function as a value: what a map at ``key_value`` reads, and may change before passing it
on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class AttentionCall:
    """One call of the attention function: what the map at ``key_value`` reads.

    Attributes:
        module: the attention module.
        function: computes the attention.
        query: [b, h, t, dim].
        key: [b, kv heads, s, dim].
        value: the same.
        mask: [b or 1, 1, 1 or t, s], or None.
        kwargs: what else the function gets.
    """

    module: nn.Module
    function: Callable[..., Any]
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    kwargs: dict[str, Any]

    def attend(self) -> Any:
        """What the attention function returns; first of all the states, [b, t, h, dim]."""
        return self.function(self.module, self.query, self.key, self.value, self.mask, **self.kwargs)

    def over(self, keys: Tensor, values: Tensor) -> Tensor:
        """The same queries' attention over other tokens alone, without mask, position bias or dropout.

        Args:
            keys: [b, kv heads, l, dim].
            values: the same.

        Returns:
            [b, t, h, dim]
        """
        own = {name: self.kwargs[name] for name in ("scaling", "softcap") if name in self.kwargs}
        found: Tensor = self.function(self.module, self.query, keys, values, None, is_causal=False, **own)[0]
        return found

    def before(
        self, keys: Tensor, values: Tensor, hidden: Tensor | None = None, bias: Tensor | None = None
    ) -> AttentionCall:
        """The same call with tokens before its own.

        Args:
            keys: [b, kv heads, l, dim].
            values: the same.
            hidden: [b, l], true where a row does not see its token; every row sees all when left out.
            bias: the tokens' position biases, [1, h, t, l]; zero when left out.
        """
        length, kwargs = keys.shape[2], self.kwargs
        mask = explicit_mask(self.module, self.query, self.key, self.mask, kwargs)
        if hidden is not None and mask is None:
            mask = torch.ones(1, 1, 1, self.key.shape[2], dtype=torch.bool, device=keys.device)
        if mask is not None:
            seen, unseen = (True, False) if mask.dtype == torch.bool else (0.0, torch.finfo(mask.dtype).min)
            if hidden is None:
                mask = F.pad(mask, (length, 0), value=seen)
            else:
                rows, _, t, _ = (max(a, b) for a, b in zip(mask.shape, (len(hidden), 1, 1, 1), strict=True))
                front = torch.full((rows, 1, t, length), seen, dtype=mask.dtype, device=mask.device)
                front = front.masked_fill(hidden[:, None, None, :].to(mask.device), unseen)
                mask = torch.cat([front.expand(-1, mask.shape[1], -1, -1), mask.expand(rows, -1, -1, -1)], dim=-1)
        own = kwargs.get("position_bias")
        if own is not None:
            front = F.pad(own, (length, 0)) if bias is None else torch.cat([bias.to(own.dtype), own], dim=-1)
            kwargs = {**kwargs, "position_bias": front}
        key, value = torch.cat([keys, self.key], dim=2), torch.cat([values, self.value], dim=2)
        return dataclasses.replace(self, key=key, value=value, mask=mask, kwargs=kwargs)

    def rows(self, index: Tensor) -> AttentionCall:
        """The same of some rows of the batch.

        Args:
            index: which, [n].
        """
        size = self.query.shape[0]

        def own(item: Any) -> Any:
            batched = isinstance(item, Tensor) and item.ndim > 1 and item.shape[0] == size
            return item[index.to(item.device)] if batched else item

        kwargs = {name: own(item) for name, item in self.kwargs.items()}
        query, key, value, mask = map(own, (self.query, self.key, self.value, self.mask))
        return dataclasses.replace(self, query=query, key=key, value=value, mask=mask, kwargs=kwargs)


def explicit_mask(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
) -> Tensor | None:
    """The mask that a call without one means: causal calls may rely on the kernel's flag, which a prefix breaks."""
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    tokens, keys = query.shape[2], key.shape[2]
    if mask is not None or not causal or tokens == 1:
        return mask
    return torch.ones(tokens, keys, dtype=torch.bool, device=query.device).tril()[None, None]  # 1 1 t s
