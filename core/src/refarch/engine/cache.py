"""The cache of a generating call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers.cache_utils import Cache


def find_cache(values: Iterable[Any]) -> Cache | None:
    """The cache among what a module of the model gets, under whichever name (it differs by family and version)."""
    return next((value for value in values if isinstance(value, Cache)), None)
