"""Which rows of a batch belong to which parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from refarch.errors import CompositionError

Names = tuple[str | None, ...]
ByTerm: TypeAlias = "list[tuple[int | None, BatchRows]]"
"""BatchRows by the term of an operator that they belong to; those of no term under None."""


class BatchRows:
    """The rows that something is computed for, with the name of the part that each is given to.

    A call may have more rows than were named: beams and repeated sequences, or a layer that has all tokens in one row.
    Their number is then a multiple, and each name stands for as many rows one after another.

    Args:
        names: of the part that each row is given to; None for a row that gets none.
        places: the rows' indices among those of the whole batch; all when left out.
        total: how many rows the whole batch was given names for.
    """

    def __init__(self, names: Sequence[str | None], places: Sequence[int] | None = None, total: int = 0) -> None:
        self.names: Names = tuple(names)
        self.places = tuple(range(len(names))) if places is None else tuple(places)
        self.total = total or len(names)
        self._groups: dict[int, ByTerm] = {}
        self._index: dict[tuple[int, torch.device], Tensor] = {}
        self._inside: dict[tuple[int, torch.device], Tensor] = {}

    def groups(self, key: int, member: Mapping[str, int]) -> ByTerm:
        """The rows by the term of an operator that they belong to; those of no term under None. No empty group.

        Args:
            key: of the operator.
            member: the index of the term that each name is found in.
        """
        found = self._groups.get(key)
        if found is None:
            by_term: dict[int | None, list[int]] = {}
            for position, name in enumerate(self.names):
                by_term.setdefault(None if name is None else member.get(name), []).append(position)
            found = [(term, self._some(positions)) for term, positions in by_term.items()]
            self._groups[key] = found
        return found

    def _some(self, positions: list[int]) -> BatchRows:
        some = BatchRows([self.names[i] for i in positions], [self.places[i] for i in positions], self.total)
        some._positions = tuple(positions)
        return some

    _positions: tuple[int, ...] = ()

    def positions(self, outer: BatchRows) -> tuple[int, ...]:
        """Where these rows stand among the group that they were taken from."""
        assert outer.names, "rows are taken from rows"
        return self._positions

    def inside(self, outer: BatchRows, size: int, device: torch.device) -> Tensor:
        """The indices of these rows among ``size`` rows that belong to the group that they were taken from, [n]."""
        key = (size, device)
        if key not in self._inside:
            self._inside[key] = _spread(self._positions, size, len(outer.names), device)
        return self._inside[key]

    def among(self, size: int, device: torch.device | None = None) -> Tensor:
        """The indices of these rows among ``size`` rows of the whole batch, [n]."""
        key = (size, device or torch.device("cpu"))
        if key not in self._index:
            self._index[key] = _spread(self.places, size, self.total, key[1])
        return self._index[key]


def _spread(places: Sequence[int], size: int, total: int, device: torch.device) -> Tensor:
    if size % total:
        raise CompositionError(
            f"the batch has {size} rows, but {total} were given to parts",
            "give composition.rows(...) one name for each row",
        )
    times = size // total
    first = torch.tensor(places, device=device).unsqueeze(1) * times  # n 1
    return (first + torch.arange(times, device=device)).flatten()  # n * times


class CallState:
    """What a composition knows about the present call.

    Attributes:
        rows: those that something is computed for now; None until they are said.
        tasks: the number of each row's task.
    """

    def __init__(self) -> None:
        self.rows: BatchRows | None = None
        self.tasks: tuple[int, ...] | None = None

    def within(self, rows: BatchRows, work: Callable[[], Tensor]) -> Tensor:
        """Compute something for some of the rows."""
        before, self.rows = self.rows, rows
        try:
            return work()
        finally:
            self.rows = before
