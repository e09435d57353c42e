"""Make splits that keep groups whole and labels in proportion, from a seed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from refarch.errors import DataError


def split(labels: Sequence[str], groups: Sequence[Hashable], sizes: Sequence[float], seed: int) -> list[list[int]]:
    """Divide examples into parts. No group is in two parts, and each part has about the same share of every label.

    Args:
        labels: one for each example.
        groups: one for each example; those of a group stay together.
        sizes: the share, from 0 to 1, of each part but the first, which gets the rest.
        seed: decides the parts; the same seed and examples give the same parts on every machine.

    Returns:
        For each part the indices of its examples, ascending. The first has at least one group of every label that is
        most frequent in some group.
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    strata: dict[str, list[list[int]]] = {}
    for group_members in members.values():
        main = Counter(labels[i] for i in group_members).most_common(1)[0][0]
        strata.setdefault(main, []).append(group_members)
    random = np.random.RandomState(seed % 2**32)  # its stream never changes between versions of numpy
    parts: list[list[int]] = [[] for _ in range(len(sizes) + 1)]
    for label in sorted(strata):
        stratum = [strata[label][i] for i in random.permutation(len(strata[label]))]
        total = sum(map(len, stratum))
        kept = stratum.pop()
        for part, size in zip(parts[1:], sizes, strict=True):
            taken = 0
            # A group goes in as long as that brings the part nearer to its size.
            while stratum and taken + len(stratum[-1]) / 2 <= size * total:
                taken += len(stratum[-1])
                part.extend(stratum.pop())
        parts[0].extend(kept + [index for group in stratum for index in group])
    return [sorted(part) for part in parts]


def limit(labels: Sequence[str], count: int, seed: int) -> list[int]:
    """``count`` of the examples (or all, when there are fewer), each label in proportion and none lost if possible.

    Args:
        labels: one for each example.
        count: how many.
        seed: decides which.

    Returns:
        Their indices, ascending.
    """
    if count >= len(labels):
        return list(range(len(labels)))
    random = np.random.RandomState(seed % 2**32)
    by_label: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        by_label.setdefault(label, []).append(index)
    # Rank each example by how far into its label it stands; taking the lowest ranks takes each label in proportion.
    ranked: list[tuple[float, str, int]] = []
    for label in sorted(by_label):
        order = random.permutation(len(by_label[label]))
        ranked += [(place / len(order), label, by_label[label][i]) for place, i in enumerate(order)]
    return sorted(index for _, _, index in sorted(ranked)[:count])


@dataclass(frozen=True)
class SplitIndices:
    """Which rows make which split.

    Attributes:
        train: indices of train rows.
        validation: of train rows, where a split was made of them; None where there is one already, or none is wanted.
        test: of test rows where the source has them, otherwise of train rows.
    """

    train: list[int]
    validation: list[int] | None
    test: list[int]


def make_splits(
    options: Mapping[str, Any],
    seed: int,
    labels: Sequence[str],
    groups: Sequence[Hashable],
    *,
    test_labels: Sequence[str] | None,
    has_validation: bool,
    where: str,
) -> SplitIndices:
    """Make the splits that a source lacks out of its train rows, and limit them, as :data:`refarch.SPLIT_OPTIONS` say.

    Args:
        options: values of those options; ``split_seed`` wins over ``seed``.
        seed: the run's data seed.
        labels: of each train row, to keep in proportion; equal ones where the task has none.
        groups: of each train row; those of a group stay together.
        test_labels: of each test row; None where the source has no test split.
        has_validation: whether the source has that split.
        where: the source, for the message.

    Raises:
        DataError: there are too few rows for a test split.
    """
    decided = seed if options["split_seed"] is None else options["split_seed"]
    sizes = [
        0.0 if test_labels is not None else options["test_size"],
        0.0 if has_validation else options["validation_size"],
    ]
    train, test, validation = list(range(len(labels))), [], []
    if any(sizes):
        train, test, validation = split(labels, groups, sizes, decided)
    if test_labels is not None:
        test = list(range(len(test_labels)))
    if not test:
        raise DataError(
            f"{where}: {len(labels)} rows are too few to make a test split of {sizes[0]:g}",
            "set test, raise test_size, or add rows (identical texts stay in one split)",
        )
    own = labels if test_labels is None else test_labels
    return SplitIndices(
        _limited(train, labels, options["train_limit"], decided),
        validation or None,
        _limited(test, own, options["test_limit"], decided),
    )


class Selectable(Protocol):
    """A split: examples of which some can be taken."""

    def __len__(self) -> int: ...

    def select(self: S, indices: Iterable[int], /) -> S:
        """These examples, in this order."""
        ...


S = TypeVar("S", bound=Selectable)
T = TypeVar("T")


@dataclass(frozen=True)
class Items(Generic[T]):
    """A split whose examples are objects.

    Attributes:
        items: in the order of the rows.
        source: the file or data set, for messages.
    """

    items: Sequence[T]
    source: str

    def __len__(self) -> int:
        return len(self.items)

    def select(self, indices: Iterable[int]) -> Items[T]:
        """These examples, in this order."""
        return Items([self.items[index] for index in indices], self.source)


def parted(
    splits: Mapping[str, S],
    options: Mapping[str, Any],
    seed: int,
    *,
    groups: Callable[[S], Sequence[Hashable]],
    labels: Callable[[S], Sequence[str]] | None = None,
    where: str,
) -> dict[str, S]:
    """The splits that a task works with, of those that its source has; arguments as of :func:`make_splits`.

    Args:
        splits: ``train``, and ``validation`` and ``test`` where the source has them.
        options: values of :data:`refarch.SPLIT_OPTIONS`.
        seed: the run's data seed.
        groups: gives each example's group.
        labels: gives what is kept in proportion; nothing is when left out.
        where: the source, for messages.

    Raises:
        DataError: there are too few rows for a test split.
    """
    train, test = splits["train"], splits.get("test")
    told = labels or (lambda examples: [""] * len(examples))
    made = make_splits(
        options,
        seed,
        told(train),
        groups(train),
        test_labels=None if test is None else told(test),
        has_validation="validation" in splits,
        where=where,
    )
    found = {"train": train.select(made.train), "test": (train if test is None else test).select(made.test)}
    if made.validation is not None:
        found["validation"] = train.select(made.validation)
    elif "validation" in splits:
        found["validation"] = splits["validation"]
    return found


def _limited(rows: list[int], labels: Sequence[str], count: int | None, seed: int) -> list[int]:
    if count is None:
        return rows
    return [rows[index] for index in limit([labels[row] for row in rows], count, seed)]
