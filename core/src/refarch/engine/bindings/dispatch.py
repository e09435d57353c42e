"""Bindings at a module: the maps that adaptations wrap around it, composed in the order of attachment.

With F the module's own map, the k-th binding defines F_k from F_(k-1). So the last one attached is outermost, and
merging bindings one after another into the weight computes the same map. A :class:`Dispatcher` takes the place of the
module's ``forward`` on the instance: class, parameter names, and hooks that others put there stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from refarch.engine.bindings.seam import Binding, Group, Inner, arranged
from refarch.errors import CompositionError


class Dispatcher:
    """Runs the bindings of one module.

    Args:
        module: the module whose ``forward`` is taken over.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.bindings: list[Binding] = []
        self.groups: list[Group] = []
        self.running: list[Binding] = self.bindings
        """What a call runs, innermost first: the bindings, with each group in the place of those that it covers."""
        self.previous: Callable[..., Any] | None = module.__dict__.get("forward")
        # Whoever wrapped forward before may take that back later, and the dispatcher with it.
        self.guard = None if self.previous is None else module.register_forward_pre_hook(_refuse_bypass)

    @classmethod
    def of(cls, module: nn.Module) -> Dispatcher | None:
        """The dispatcher of a module, or None. One that was wrapped by others since is found too."""
        found = module.__dict__.get("_refarch_dispatcher")
        return found if isinstance(found, cls) else None

    @classmethod
    def at(cls, module: nn.Module) -> Dispatcher:
        """The dispatcher of a module, put there if need be."""
        found = cls.of(module)
        if found is None:
            found = cls(module)
            module.__dict__["_refarch_dispatcher"] = found
            module.__dict__["forward"] = found
        return found

    def add(self, binding: Binding) -> None:
        """Put a binding outermost."""
        self.bindings.append(binding)
        self._arrange()

    def move(self, binding: Binding, position: int) -> None:
        """Put a binding that is here at another position, counted without it."""
        self.bindings.remove(binding)
        self.bindings.insert(position, binding)
        self._arrange()

    def group(self, group: Group) -> None:
        """Let a group run in the place of the bindings that it covers, which stay here."""
        self.groups.append(group)
        self._arrange()

    def ungroup(self, group: Group) -> None:
        """Let its bindings run by themselves again."""
        self.groups.remove(group)
        self._arrange()

    def _arrange(self) -> None:
        """With nothing grouped, what runs is the list of bindings itself, at no cost."""
        self.running = arranged(self.bindings, self.groups)

    def remove(self, binding: Binding) -> None:
        """Take a binding away; with the last one, the module's own ``forward`` comes back."""
        self.bindings.remove(binding)
        self._arrange()
        if self.bindings:
            return
        if self.guard is not None:
            self.guard.remove()
            self.guard = None
        if _bypassed(self.module):
            del self.module.__dict__["_refarch_dispatcher"]
            return
        if self.module.__dict__.get("forward") is not self:  # wrapped by others since; they hold on to it
            return
        del self.module.__dict__["forward"], self.module.__dict__["_refarch_dispatcher"]
        if self.previous is not None:
            self.module.__dict__["forward"] = self.previous

    def inner_to(self, binding: Binding) -> list[Binding]:
        """What runs inside a binding that runs by itself, innermost first."""
        return self.running[: self.running.index(binding)]

    def base(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, with whatever others had wrapped around it before."""
        if self.previous is not None:
            return self.previous(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        active = [binding for binding in self.running if binding.enabled]
        if not active:
            return self.base(*args, **kwargs)
        name, x, rest = None, None, args
        if args:
            x, rest = args[0], args[1:]
        else:  # a layer may get its hidden states by keyword
            name = next(iter(kwargs))
            x = kwargs.pop(name)
        tail: list[tuple[Any, ...]] = []  # of a module that returns a tuple: what comes after the hidden states

        def own(x: Tensor) -> Tensor:
            y = self.base(x, *rest, **kwargs) if name is None else self.base(**{name: x}, **kwargs)
            if isinstance(y, tuple):
                tail[:] = [y[1:]]
                return y[0]
            return y

        inner: Inner = own
        for position, binding in enumerate(active):
            leaf = self.module if position == 0 and self.previous is None else None
            inner = _Composed(binding, inner, leaf)
        assert x is not None
        y = inner(x)
        return (y, *tail[0]) if tail else y


def _bypassed(module: nn.Module) -> bool:
    """Whether the module's own forward was put back over its dispatcher."""
    forward = module.__dict__.get("forward")
    return forward is None or getattr(forward, "__func__", None) is type(module).forward


def _refuse_bypass(module: nn.Module, args: Any) -> None:
    if _bypassed(module):
        raise CompositionError(
            f"the forward of a {type(module).__name__} was restored by whoever had wrapped it before attaching, so what"
            " is attached there would be left out",
            "detach first, then remove the other wrapper (accelerate's hooks, for example), and attach again",
        )


class _Composed:
    """F_k as a callable."""

    __slots__ = ("binding", "inner", "leaf")

    def __init__(self, binding: Binding, inner: Inner, leaf: nn.Module | None) -> None:
        self.binding, self.inner, self.leaf = binding, inner, leaf

    def __call__(self, x: Tensor) -> Tensor:
        return self.binding(self.inner, x, self.leaf)
