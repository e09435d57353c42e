"""From rows of evidence to scores by technique and block."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

from refarch.errors import UsageError
from refarch_compare.evidence.row import Row


class Blocks(NamedTuple):
    """Scores of techniques on blocks, and what was averaged to get them."""

    scores: dict[str, dict[Hashable, float]]
    greater_is_better: bool
    averaged: int
    """Blocks in which a technique had several rows; their mean stands for them."""


def by_block(
    rows: Iterable[Row],
    name: Callable[[Row], str] = lambda row: row.name,
    block: Callable[[Row], Hashable] = lambda row: row.block,
) -> Blocks:
    """Scores by technique, and by block within it.

    Args:
        rows: evidence, all with metrics of one direction.
        name: what a row's technique is called; its label unless told otherwise.
        block: what a comparison holds fixed; task, metric, backbone, origin and seed unless told otherwise, so that
            figures of others are compared only among themselves.

    Raises:
        UsageError: for some rows a greater score is better, for others a lower one.
    """
    found: dict[str, dict[Hashable, list[float]]] = {}
    directions = set()
    for row in rows:
        directions.add(row.greater_is_better)
        found.setdefault(name(row), {}).setdefault(block(row), []).append(row.score)
    if len(directions) > 1:
        raise UsageError(
            "in some of these rows a greater score is better, in others a lower one",
            "compare the rows of one metric at a time: --where \"metric = '...'\"",
        )
    scores = {who: {where: sum(s) / len(s) for where, s in blocks.items()} for who, blocks in found.items()}
    averaged = sum(len(s) > 1 for blocks in found.values() for s in blocks.values())
    return Blocks(scores, directions != {False}, averaged)
