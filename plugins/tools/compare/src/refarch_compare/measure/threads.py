"""Torch's threads while something is measured: as a run would take them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def torch_threads(wanted: int | None) -> Iterator[None]:
    """So many, or the cores that this process may use, at most 8."""
    before = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(wanted or min(cores, 8))
    try:
        yield
    finally:
        torch.set_num_threads(before)
