"""One torch thread a worker (more make a few cores several times slower), and each test from the same seed."""

import os
import random

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the environment came without bytecode; hundreds of processes need it


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws without naming a seed is the same each time, in whatever order and worker it runs."""
    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
