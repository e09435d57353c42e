"""The running operators at one place of a model, derived from one definition for every integration form.

A place is a module with a dispatcher, or an attention module with the seam. There the map so far is F, and a part's own
map takes F to e(F); what its bindings compute. A node is an operator restricted to the parts that are bound at the
place: it takes F to a new map, too, so nodes nest. What x is (a tensor, or one call of
attention, ``AttentionCall``) only matters where rows are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from refarch.composition.running.rows import CallState
from refarch.engine.bindings.carrier import Carrier
from refarch.engine.bindings.weight_map import Weights, changes_weights

InnerMap = Callable[[Any], Tensor]
"""F, of whatever is read at the place."""


class Around(Protocol):
    """A place, as far as a part there asks for it."""

    def before(self) -> list[Any]:
        """What runs inside all parts: what was attached before the first of them."""


class Node:
    """A map F -> e(F).

    Attributes:
        observes: whether it changes nothing here, and only notes what passes.
        whole: whether it has to get all rows of a batch, because it reads what others noted for all of them.
    """

    observes = False
    whole = False

    @property
    def enabled(self) -> bool:
        """Whether any part of it takes part."""
        return True

    def __call__(self, inner: InnerMap, x: Any, leaf: nn.Module | None = None) -> Tensor:
        """e(F)(x) with F = ``inner``; ``leaf`` as in :class:`~refarch.engine.bindings.seam.Binding`."""
        raise NotImplementedError

    def leaves(self) -> list[Leaf]:
        """All parts in it."""
        raise NotImplementedError

    def carriers(self) -> list[Carrier]:
        """What carries something here from an earlier module, for parts and operators in it."""
        raise NotImplementedError

    def merged(self, weight: Tensor, bias: Tensor | None) -> Weights:
        """The weight [d_out, d_in] and bias with which the layer alone computes e(F), from those of F."""
        raise NotImplementedError

    def weight_reason(self) -> str:
        """Why e(F) is no weight of the layer; empty if it is."""
        return next((reason for leaf in self.leaves() if (reason := leaf.weight_reason())), "")


class Leaf(Node):
    """A part: its bindings at the place, each around the one before.

    Args:
        name: the part's.
        bindings: innermost first.
        state: the composition's.
        inside: what of the composition runs inside it.
        place: where; knows what runs inside the composition.
        whole: as of all nodes.
    """

    def __init__(
        self, name: str, bindings: Sequence[Any], state: CallState, inside: Sequence[Any], place: Around, whole: bool
    ) -> None:
        self.name, self.bindings, self.state, self.place = name, list(bindings), state, place
        self.inside = [[*inside, *self.bindings[:i]] for i in range(len(self.bindings))]
        self.observes = all(isinstance(binding, Carrier) for binding in self.bindings)
        self.owner = self.bindings[0].owner
        self.whole = whole

    @property
    def enabled(self) -> bool:
        """Whether the part takes part."""
        return bool(self.owner.enabled)

    def leaves(self) -> list[Leaf]:
        """Itself."""
        return [self]

    def carriers(self) -> list[Carrier]:
        """Those of its bindings."""
        found = [binding.carrier for binding in self.bindings]
        return [carrier for carrier in found if carrier is not None]

    def __call__(self, inner: InnerMap, x: Any, leaf: nn.Module | None = None) -> Tensor:
        """e(F)(x)."""
        for position, binding in enumerate(self.bindings):
            inner = self._around(binding, inner, self.inside[position], leaf if position == 0 else None)
        return inner(x)

    def _around(self, binding: Any, inner: InnerMap, inside: list[Any], leaf: nn.Module | None) -> InnerMap:
        reads_weight = not isinstance(binding, Carrier) and binding.spec.integration == "transformation"

        def run(x: Any) -> Tensor:
            if reads_weight:
                binding.inside = [*self.place.before(), *inside]
            tokens, rows = binding.tokens, self.state.rows
            if tokens is not None and rows is not None and len(rows.names) < rows.total:
                tokens.rows = rows.among
            try:
                return binding(inner, x, leaf)  # type: ignore[no-any-return]
            finally:
                if reads_weight:
                    binding.inside = None
                if tokens is not None:
                    tokens.rows = None

        return run

    def merged(self, weight: Tensor, bias: Tensor | None) -> Weights:
        """One binding after another."""
        for binding in self.bindings:
            if changes_weights(binding):
                weight, bias = binding.merged(weight, bias)
        return weight, bias

    def weight_reason(self) -> str:
        """The first binding's reason."""
        for binding in self.bindings:
            if isinstance(binding, Carrier):
                continue
            reason = binding.weight_reason()
            if reason:
                return f"{binding.site.address}: {reason}"
        return ""


class Several(Node):
    """An operator over nodes.

    Args:
        terms: the index of each term in the expression, and its node.
    """

    def __init__(self, terms: Sequence[tuple[int, Node]]) -> None:
        self.terms = list(terms)
        self.observes = all(node.observes for _, node in terms)
        self.whole = any(node.whole for _, node in terms)

    @property
    def enabled(self) -> bool:
        """Whether any term takes part."""
        return any(node.enabled for _, node in self.terms)

    def leaves(self) -> list[Leaf]:
        """Those of all terms."""
        return [leaf for _, node in self.terms for leaf in node.leaves()]

    def carriers(self) -> list[Carrier]:
        """Those of all terms."""
        return [carrier for _, node in self.terms for carrier in node.carriers()]

    def active(self) -> list[tuple[int, Node]]:
        """The terms that take part."""
        return [(index, node) for index, node in self.terms if node.enabled]


class StackNode(Several):
    """e_n(... e_1(F))."""

    def __call__(self, inner: InnerMap, x: Any, leaf: nn.Module | None = None) -> Tensor:
        """One after another, the last outermost."""
        for position, (_, node) in enumerate(self.active()):
            inner = _bound(node, inner, leaf if position == 0 else None)
        return inner(x)

    def merged(self, weight: Tensor, bias: Tensor | None) -> Weights:
        """One after another."""
        for _, node in self.active():
            weight, bias = node.merged(weight, bias)
        return weight, bias


def _bound(node: Node, inner: InnerMap, leaf: nn.Module | None) -> InnerMap:
    return lambda x: node(inner, x, leaf)


class Memo:
    """F, computed once for one x; the terms of an operator all ask for it."""

    def __init__(self, inner: InnerMap) -> None:
        self.inner, self.x = inner, None
        self.y: Tensor | None = None

    def __call__(self, x: Any) -> Tensor:
        """F(x)."""
        y = self.y
        if self.x is not x or y is None:
            y = self.inner(x)
            self.x, self.y = x, y
        return y


class Contributions(Several):
    """An operator that computes with what each term changes, e_i(F)(x) - F(x)."""

    def __call__(self, inner: InnerMap, x: Any, leaf: nn.Module | None = None) -> Tensor:
        """F(x), changed."""
        memo = Memo(inner)
        y = memo(x)
        changes = []
        for index, node in self.active():
            out = node(memo, x)
            if not node.observes:
                changes.append((index, out - y))
        return self.combined(x, y, changes) if changes else y

    def combined(self, x: Any, y: Tensor, changes: list[tuple[int, Tensor]]) -> Tensor:
        """What becomes of F(x) = ``y`` with the changes, each under its term's index."""
        raise NotImplementedError


class SumNode(Contributions):
    """F + sum_i w_i (e_i(F) - F).

    Args:
        terms: as of all operators.
        weights: w, one for each term of the expression.
    """

    def __init__(self, terms: Sequence[tuple[int, Node]], weights: Sequence[float]) -> None:
        super().__init__(terms)
        self.weights = list(weights)

    def combined(self, x: Any, y: Tensor, changes: list[tuple[int, Tensor]]) -> Tensor:
        """The weighted sum."""
        for index, change in changes:
            y = y + self.weights[index] * change
        return y

    def merged(self, weight: Tensor, bias: Tensor | None) -> Weights:
        """The same sum of weights."""
        total, total_bias = weight, bias
        for index, node in self.active():
            own, own_bias = node.merged(weight, bias)
            total = total + self.weights[index] * (own - weight)
            if total_bias is not None and own_bias is not None and bias is not None:
                total_bias = total_bias + self.weights[index] * (own_bias - bias)
        return total, total_bias
