"""What runs at one module: bindings, and groups of them, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

Inner = Callable[[Tensor], Tensor]


class Binding(Protocol):
    """One adaptation's map at one module."""

    @property
    def enabled(self) -> bool:
        """Whether it takes part now."""

    def __call__(self, inner: Inner, x: Tensor, leaf: nn.Module | None) -> Tensor:
        """F_k(x), from ``inner`` = F_(k-1).

        Args:
            inner: the map so far.
            x: the module's input.
            leaf: the module itself when ``inner`` is nothing but its own forward, else None.
        """


class Group(Binding, Protocol):
    """Several bindings at one module, combined by an operator; it runs in the place of the innermost of them."""

    def covers(self, binding: object) -> bool:
        """Whether a binding is one of them."""


def arranged(bindings: list[Any], groups: Sequence[Group]) -> list[Any]:
    """The bindings with each group in the place of the innermost one that it covers; the same list without groups."""
    if not groups:
        return bindings
    found: dict[int, Any] = {}
    for binding in bindings:
        item = next((group for group in groups if group.covers(binding)), binding)
        found[id(item)] = item
    return list(found.values())
