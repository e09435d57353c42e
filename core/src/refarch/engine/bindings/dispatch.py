"""Bindings at a module: the maps that adaptations wrap around it, composed in the order of attachment.

With F the module's own map, the k-th binding defines F_k from F_(k-1). So the last one attached is outermost, and
merging bindings one after another into the weight computes the same map. A :class:`Dispatcher` takes the place of the
module's ``forward`` on the instance: class, parameter names, and hooks that others put there stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn

from refarch.engine.bindings.seam import Inner, LayerMap, Seam
from refarch.errors import CompositionError


class Dispatcher(Seam):
    """Runs the bindings of one module.

    Args:
        module: the module whose ``forward`` is taken over.
    """

    key = "_refarch_dispatcher"

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.previous: Callable[..., Any] | None = module.__dict__.get("forward")
        # Whoever wrapped forward before may take that back later, and the dispatcher with it.
        self.guard = None if self.previous is None else module.register_forward_pre_hook(_refuse_bypass)
        module.__dict__["forward"] = self

    @classmethod
    def at(cls, module: nn.Module) -> Self:
        """The dispatcher of a module, put there if need be. One that was wrapped by others since is found too."""
        return cls.of(module) or cls(module)

    def close(self) -> None:
        """The module's own ``forward`` comes back."""
        if self.guard is not None:
            self.guard.remove()
            self.guard = None
        if _bypassed(self.module):
            super().close()
            return
        if self.module.__dict__.get("forward") is not self:  # wrapped by others since; they hold on to it
            return
        super().close()
        del self.module.__dict__["forward"]
        if self.previous is not None:
            self.module.__dict__["forward"] = self.previous

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

    def __init__(self, binding: LayerMap, inner: Inner, leaf: nn.Module | None) -> None:
        self.binding, self.inner, self.leaf = binding, inner, leaf

    def __call__(self, x: Tensor) -> Tensor:
        return self.binding(self.inner, x, self.leaf)
