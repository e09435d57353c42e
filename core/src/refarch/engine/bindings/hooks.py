"""Hooks that belong to a component of the engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers.cache_utils import Cache


class CopiedMethod:
    """A method as a hook that stays bound to its owner's copy when the model is copied (a bound method would not)."""

    def __init__(self, owner: object, name: str) -> None:
        self.owner, self.name = owner, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.owner, self.name)(*args, **kwargs)


def find_cache(values: Iterable[Any]) -> Cache | None:
    """The cache among what a module of the model gets, under whichever name (it differs by family and version)."""
    return next((value for value in values if isinstance(value, Cache)), None)
