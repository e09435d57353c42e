"""Bytes of tensors while something runs, as the device's allocator saw them: measured, not modelled."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from refarch_compare.storages import storage_bytes


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
