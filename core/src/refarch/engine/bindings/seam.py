"""The seam at one module of a model: what runs there, in which order, and which of it runs as a group.

There are three kinds: a module's own ``forward`` (:mod:`refarch.engine.bindings.dispatch`), the attention function
(:mod:`refarch.engine.bindings.attention.seam`) and a stack's inputs (:mod:`refarch.engine.bindings.inputs`). Each is
one object in the module's ``__dict__``, so it follows the module when the model is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor, nn

Inner = Callable[[Tensor], Tensor]


class LayerMap(Protocol):
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


class Group(LayerMap, Protocol):
    """Several bindings at one module, combined by an operator; it runs in the place of the innermost of them."""

    def covers(self, binding: object) -> bool:
        """Whether a binding is one of them."""


class Seam:
    """What runs at one module.

    Args:
        module: the module; the seam is put into its ``__dict__``.

    Attributes:
        bindings: in the order of attachment; the last one is outermost.
        groups: what runs in the place of some of them.
        running: what a call runs, innermost first: the bindings, with each group in the place of those that it covers.
    """

    key: ClassVar[str]

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.bindings: list[Any] = []
        self.groups: list[Any] = []
        self.running: list[Any] = self.bindings
        module.__dict__[self.key] = self

    @classmethod
    def of(cls, module: nn.Module) -> Self | None:
        """The seam of a module, or None."""
        found: Self | None = module.__dict__.get(cls.key)
        return found

    @classmethod
    def there(cls, module: nn.Module) -> Self:
        """The seam of a module that has one."""
        seam: Self = module.__dict__[cls.key]
        return seam

    def add(self, binding: Any) -> None:
        """Put a binding outermost."""
        self.bindings.append(binding)
        self._arrange()

    def remove(self, binding: Any) -> None:
        """Take a binding away, and with the last one the seam."""
        self.bindings.remove(binding)
        self._arrange()
        if not self.bindings:
            self.close()

    def move(self, binding: Any, position: int) -> None:
        """Put a binding that is here at another position, counted without it."""
        self.bindings.remove(binding)
        self.bindings.insert(position, binding)
        self._arrange()

    def group(self, group: Any) -> None:
        """Let a group run in the place of the bindings that it covers, which stay here."""
        self.groups.append(group)
        self._arrange()

    def ungroup(self, group: Any) -> None:
        """Let its bindings run by themselves again."""
        self.groups.remove(group)
        self._arrange()

    def inner_to(self, item: Any) -> list[Any]:
        """What runs inside a binding or group that runs by itself, innermost first."""
        return self.running[: self.running.index(item)]

    def close(self) -> None:
        """Take the seam off the module."""
        del self.module.__dict__[self.key]

    def _arrange(self) -> None:
        """With nothing grouped, what runs is the list of bindings itself, at no cost."""
        self.running = arranged(self.bindings, self.groups)


def arranged(bindings: list[Any], groups: Sequence[Any]) -> list[Any]:
    """The bindings with each group in the place of the innermost one that it covers; the same list without groups."""
    if not groups:
        return bindings
    found: dict[int, Any] = {}
    for binding in bindings:
        item = next((group for group in groups if group.covers(binding)), binding)
        found[id(item)] = item
    return list(found.values())
