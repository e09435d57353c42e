"""Make splits that keep groups whole and labels in proportion, from a seed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np


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
