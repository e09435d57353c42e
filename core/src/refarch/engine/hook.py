"""Hooks that belong to a component of the engine."""

from __future__ import annotations

from typing import Any


class Method:
    """A method as a hook that stays bound to its owner's copy when the model is copied (a bound method would not)."""

    def __init__(self, owner: object, name: str) -> None:
        self.owner, self.name = owner, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.owner, self.name)(*args, **kwargs)
