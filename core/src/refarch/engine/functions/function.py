"""What a technique's author writes: a function, a small module that knows shapes and hyperparameters, no backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class SlotShape:
    """The shape of one insertion, read from the backbone's own modules.

    Attributes:
        slot: the slot's standard name.
        d_in: width of what the function reads, given its insertion form and side.
        d_out: width of what it returns (for ``inputs``: of an embedded token; for ``key_value``: of all key heads
            together).
        layer: index within the stack, or None for a slot that exists once.
        layers: number of layers in the stack.
        stack: ``encoder`` or ``decoder``, or None.
        weight: returns a copy of the weight at a linear slot, [d_out, d_in], float32, detached; at ``inputs`` and
            ``embedding`` the embedding table, [words, d_out]. For initialisations that start from it. Where adaptations
            were attached before, it is the weight that merging them would give, as far as they merge.
    """

    slot: str
    d_in: int
    d_out: int
    layer: int | None
    layers: int
    stack: str | None
    weight: Callable[[], Tensor]


class Attend(Protocol):
    """Scaled dot-product attention over all tokens that the base's own attention sees, with the base's mask."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
        """softmax(q k^T / sqrt(dim) + mask) v, head by head.

        A function calls it once in a forward pass.

        Args:
            q: queries of the tokens that the function reads, [b, t, heads, dim].
            k: their keys, of the same shape; the engine adds those of earlier tokens while generating with a cache.
            v: their values, of the same shape.
            dropout: probability of dropping an attention weight; give 0 in evaluation.

        Returns:
            [b, t, heads, dim]
        """


class Function(nn.Module):
    """Base of all functions.

    ``forward`` returns the function's own contribution; the engine integrates it. Its signature depends on the module
    spec: ``forward(x)`` with x of shape [..., width] for the additive forms, ``forward(x, attend)`` with x of shape
    [b, t, width] and an :class:`Attend` for those of functional form ``attention``; ``forward()`` returning the factors
    [width] for rescaling, the tokens [l, width] for concatenation at ``inputs``, or (keys [l, width], values
    [l, width]) for concatenation at ``key_value``.

    The constructor gets the :class:`SlotShape` and the technique's options as keyword arguments.
    """

    scale: float | Tensor
    """s of a scaled addition; 1 unless a subclass sets it, on the class or on itself, where it may be a parameter."""

    on_input: Any = None
    """Of a transformation, where the algebra allows: M(W) x = W on_input(x)."""
    on_output: Any = None
    """Of a transformation, where the algebra allows: M(W) x = on_output(W x); with both, on_output(W on_input(x))."""

    def __init__(self) -> None:
        super().__init__()
        if not hasattr(type(self), "scale"):  # a default on the class would keep a parameter from being named so
            self.scale = 1.0

    def members(self) -> list[tuple[str, Function]]:
        """The technique's own functions in this one, each with the prefix of its parameters' names: itself alone,
        unless it mixes others.
        """
        return [("", self)]

    def delta(self) -> Tensor:
        """The matrix D, [out, in], with ``forward(x) == x @ D.T``. Functions of form ``linear`` define it."""
        raise NotImplementedError(f"{type(self).__name__} is declared linear but defines no delta()")

    def transform(self, weight: Tensor) -> Tensor:
        """M(W) for W of shape [d_out, d_in]. Functions of a transformation define it."""
        raise NotImplementedError(f"{type(self).__name__} is declared a transformation but defines no transform()")

    def penalty(self) -> Tensor | None:
        """A number that this function adds to the training loss (how far two factors are from orthogonal, say)."""
        return None

    def fold(self) -> None:
        """Drop, in place, what only training needs. Functions of a module with ``train_only`` parts define it."""

    def resize(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Take the shapes, by name, that a folded function of this kind has in a checkpoint. Functions whose shapes
        after folding depend on their values define it; others have those shapes already.
        """


def fold(function: nn.Module) -> None:
    """Drop what only training needs from a function and the functions inside it."""
    for module in list(function.modules()):
        if isinstance(module, Function):
            module.fold()


def own_parameters(function: Function, names: Iterable[str]) -> list[nn.Parameter]:
    """The parameters at an insertion that a spec names; without those that are not there."""
    wanted, found = list(names), dict(function.named_parameters())
    return [found[prefix + name] for prefix, _ in function.members() for name in wanted if prefix + name in found]
