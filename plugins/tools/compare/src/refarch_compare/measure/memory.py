"""Bytes of tensors while something runs, as the device's allocator saw them: measured, not modelled."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Of all storages behind tensors, each once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def peak_bytes(work: Callable[[], object], device: torch.device, held: Iterable[Tensor]) -> int:
    """The most bytes that tensors take while ``work`` runs.

    CUDA keeps count itself. On CPU the profiler tells every allocation and release; the process's resident size would
    tell more of the allocator than of the tensors.

    Args:
        work: what runs.
        device: where.
        held: the tensors that are there before.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device))
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler writes to standard error of its comings and goings
    before = storage_bytes(held)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    results = profile.profiler.kineto_results if profile.profiler else None
    changes = [(e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]"] if results else []
    live = peak = 0
    for _, change in sorted(changes, key=lambda item: item[0]):
        live += change
        peak = max(peak, live)
    return before + peak


class SavedBytes:
    """Counts what autograd keeps for the backward pass, by use around a forward pass: ``with saved.hooks(): ...``.

    Args:
        besides: tensors that are there anyway, parameters and inputs; they do not count.

    Attributes:
        kept: the storages and their bytes, each once. They are held until this object is gone, so that no other storage
            gets one's place.
    """

    def __init__(self, besides: Iterable[Tensor]) -> None:
        self._besides = {tensor.untyped_storage().data_ptr() for tensor in besides}
        self.kept: dict[int, torch.UntypedStorage] = {}

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        """A context manager."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._besides:
            self.kept[storage.data_ptr()] = storage
        return tensor

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(storage.nbytes() for storage in self.kept.values())
