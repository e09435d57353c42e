"""Torch's threads while something runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

MOST = 8


@contextlib.contextmanager
def torch_threads(wanted: int | None = None) -> Iterator[int]:
    """As many threads as the cores that this process may use, at most 8, unless told otherwise; afterwards as before.

    Torch counts the machine's cores, which in a container or under a batch system are often not ours; too many threads
    make training several times slower.

    Args:
        wanted: how many.
    """
    before = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(wanted or min(cores, MOST))
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
