"""Each row of a batch with a part of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from refarch.composition.running.gathered import Gathered
from refarch.composition.running.nodes import InnerMap, Memo, Node, Several
from refarch.composition.running.rows import BatchRows, ByTerm, CallState
from refarch.engine.bindings.attention.call import AttentionCall
from refarch.errors import CompositionError


class SplitNode(Several):
    """e_i(F) for the rows that are i's, F for those of none.

    F is computed once for all rows as far as the terms ask for it at their rows as they are; what terms add to it is
    computed for their own rows alone. Terms of one plain form are computed together
    (:mod:`refarch.composition.running.gathered`).

    Args:
        terms: as of all operators.
        key: the operator's number in the expression.
        member: the index of the term that each name of a part is found in.
        state: the composition's.
        alone: the terms that have to get all rows here, because inside them something reads what was noted for all.
    """

    def __init__(
        self,
        terms: Sequence[tuple[int, Node]],
        key: int,
        member: Mapping[str, int],
        state: CallState,
        alone: set[int],
    ) -> None:
        super().__init__(terms)
        self.key, self.member, self.state, self.alone = key, member, state, alone
        self.by_term: dict[int | None, Node] = dict(terms)
        self.gathered = Gathered([(index, node) for index, node in terms if index not in alone])

    def __call__(self, inner: InnerMap, x: Any, leaf: nn.Module | None = None) -> Tensor:
        """Row by row, as the composition was told."""
        rows = self.require(self.state.rows)
        by_term = rows.groups(self.key, self.member)
        active = {i: self.by_term[i] for i, _ in by_term if i in self.by_term and self.by_term[i].enabled}
        if len(by_term) == 1:
            term, own = by_term[0]
            node = active.get(term)
            return inner(x) if node is None else self.state.within(own, lambda: node(inner, x, leaf))
        return self._mixed(inner, x, rows, by_term, active)

    @staticmethod
    def require(rows: BatchRows | None) -> BatchRows:
        """The rows.

        Raises:
            CompositionError: nobody has said which are whose.
        """
        if rows is None:
            raise CompositionError(
                "the composition splits the batch, but nobody has said which rows are whose",
                "call the model inside `with composition.rows([...])`, with one name for each row",
            )
        return rows

    def weight_reason(self) -> str:
        """Why it is no weight."""
        return "which rows are whose is said at each call"

    def _mixed(
        self, inner: InnerMap, x: Any, rows: BatchRows, by_term: ByTerm, active: Mapping[int | None, Node]
    ) -> Tensor:
        groups = [(active.get(i), i, own) for i, own in by_term]
        like = x.query if isinstance(x, AttentionCall) else x
        size, device = like.shape[0], like.device
        together = {i for node, i, _ in groups if node is not None and i in self.gathered.terms}
        base = _Base(inner, x, lambda inner, x: self.gathered(inner, x, rows, together, by_term))
        pieces, order = [], []
        plain = [own.inside(rows, size, device) for node, i, own in groups if node is None or i in together]
        if len(plain) == len(groups):
            return base.full()
        if plain:
            index = torch.cat(plain)
            pieces.append(base.full()[index])
            order.append(index)
        for node, i, own in groups:
            if node is None or i in together:
                continue
            index = own.inside(rows, size, device)
            if node.whole or i in self.alone:
                pieces.append(node(base.memo, x)[index])
            else:
                at_rows = base.at(index)
                pieces.append(self.state.within(own, lambda node=node, at=at_rows: node(at, at.x)))  # type: ignore[misc]
            order.append(index)
        return torch.cat([piece.to(pieces[0].dtype) for piece in pieces])[torch.cat(order).argsort()]


class _Base:
    """F(x) for all rows, computed when it is first asked for."""

    def __init__(self, inner: InnerMap, x: Any, grouped: Any) -> None:
        self.memo, self.x, self.gathered = Memo(inner), x, grouped
        self._full: Tensor | None = None

    def full(self) -> Tensor:
        """With what was grouped in it; at the other rows it is F(x)."""
        if self._full is None:
            self._full = self.gathered(self.memo, self.x)
        return self._full  # type: ignore[return-value]

    def at(self, index: Tensor) -> _AtRows:
        """F for some rows."""
        return _AtRows(self, index)


class _AtRows:
    """F at some rows: taken from the whole where x is those rows of it."""

    def __init__(self, base: _Base, index: Tensor) -> None:
        self.base, self.index = base, index
        self.x = base.x.rows(index) if isinstance(base.x, AttentionCall) else base.x[index]

    def __call__(self, x: Any) -> Tensor:
        if x is self.x and not isinstance(x, AttentionCall):
            return self.base.full()[self.index]
        return self.base.memo.inner(x)
