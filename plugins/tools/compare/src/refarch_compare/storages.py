"""The storages behind tensors, each counted once: real ones, and those of the meta device, which have no address."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Of all storages behind tensors, each once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


class Saved:
    """Counts what autograd keeps for the backward pass: use ``hooks()`` around the forward pass.

    Args:
        besides: tensors that are there anyway, such as parameters; they do not count.

    Attributes:
        bytes: of all storages that are kept, each once.
    """

    def __init__(self, besides: Iterable[Tensor] = ()) -> None:
        self.bytes = 0
        self._known: dict[int, Any] = {tensor.untyped_storage()._cdata: tensor for tensor in besides}

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        """A context manager."""
        return torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        known = self._known.get(storage._cdata)
        if known is None or (isinstance(known, weakref.ref) and known() is None):  # another one may have had its place
            self._known[storage._cdata] = weakref.ref(storage)
            self.bytes += storage.nbytes()
        return tensor
