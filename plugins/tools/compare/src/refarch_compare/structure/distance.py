"""A distance between the structures of techniques, and what turns one structure into another.

Between two values of one property, in [0, 1]:

========  =====================================================================
value     0 if they are equal, else 1
set       1 - |A and B| / |A or B| (Jaccard); 0 between two empty sets
number    |a - b| / (1 + |a - b|)
group     the mean over its features; 1 between a group and its absence
========  =====================================================================

Between two modules: the mean over all properties (Gower's coefficient, as a distance, with equal weights). Between two
techniques with m <= n modules: modules are matched so that the sum is least, each of the n - m left over counts 1, and
the sum is divided by n (the OSPA metric of Schuhmacher, Vo and Vo 2008 with order 1 and cut-off 1). So it lies in
[0, 1], is symmetric, obeys the triangle inequality, and is 0 exactly where all properties are equal. It depends on the
two specs alone: what else is installed does not change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from refarch_compare.structure.features import Feature, Module, Structure


class Change(NamedTuple):
    """One step from one structure to another."""

    module: str
    """The module that it is about, where the technique has several."""
    property: str
    """The property; ``module`` for a module that is only on one side."""
    before: Any
    after: Any
    text: str
    """In words."""


def feature_distance(one: Feature, other: Feature) -> float:
    """The distance between two values of one property."""
    a, b = one.value, other.value
    if one.kind != other.kind or a is None or b is None:
        return float(a != b)
    if one.kind == "set":
        return 1.0 - len(a & b) / len(a | b) if a | b else 0.0
    if one.kind == "number":
        return abs(a - b) / (1.0 + abs(a - b))
    if one.kind == "group":
        return _mean(a, b)
    return float(a != b)


def module_distance(one: Module, other: Module) -> float:
    """The mean distance over all properties."""
    return _mean(one.features, other.features)


def _mean(one: Any, other: Any) -> float:
    names = list(dict.fromkeys([*one, *other]))
    apart = [
        1.0 if name not in one or name not in other else feature_distance(one[name], other[name]) for name in names
    ]
    return sum(apart) / len(apart) if apart else 0.0


def match(one: Structure, other: Structure) -> tuple[list[tuple[int, int]], float]:
    """The pairs of modules that belong together, and the sum of their distances."""
    costs = np.array([[module_distance(a, b) for b in other.modules] for a in one.modules])
    rows, columns = linear_sum_assignment(costs)
    return list(zip(rows.tolist(), columns.tolist(), strict=True)), float(costs[rows, columns].sum())


def distance(one: Structure, other: Structure) -> float:
    """The structural distance of two techniques, from 0 to 1."""
    pairs, total = match(one, other)
    larger = max(len(one.modules), len(other.modules))
    return (total + (larger - len(pairs))) / larger  # in this order a small distance survives


def matrix(structures: Sequence[Structure]) -> NDArray[np.float64]:
    """All distances, [n, n]."""
    found = np.zeros((len(structures), len(structures)))
    for i, one in enumerate(structures):
        for j in range(i):
            found[i, j] = found[j, i] = distance(one, structures[j])
    return found


def changes(base: Structure, target: Structure) -> list[Change]:
    """What has to change in ``base`` for it to become ``target``.

    These are the properties of matched modules that differ, and the modules that only one of the two has; none exactly
    where the distance is 0.
    """
    pairs, _ = match(base, target)
    several = max(len(base.modules), len(target.modules)) > 1
    found = []
    for i, j in pairs:
        one, other = base.modules[i], target.modules[j]
        for name in dict.fromkeys([*one.features, *other.features]):
            a, b = one.features.get(name), other.features.get(name)
            if a is None or b is None or feature_distance(a, b):
                found.append(_change(one.name if several else "", a, b))
    gone = [base.modules[i].name for i in range(len(base.modules)) if i not in {pair[0] for pair in pairs}]
    new = [target.modules[j] for j in range(len(target.modules)) if j not in {pair[1] for pair in pairs}]
    found += [Change(name, "module", name, None, f"its module {name} left out") for name in gone]
    found += [Change(m.name, "module", None, m.name, f"a module {m.name} in addition ({_short(m)})") for m in new]
    return found


def _change(module: str, before: Feature | None, after: Feature | None) -> Change:
    known = after or before
    assert known is not None
    then, now = (feature.text if feature else "-" for feature in (before, after))
    where = f"{module}: " if module else ""
    a, b = (feature.plain() if feature else None for feature in (before, after))
    return Change(module, known.name, a, b, f"{where}{known.label} {now} instead of {then}")


def _short(module: Module) -> str:
    """A module in few words."""
    named = ("workspace", "insertion", "integration", "form")
    return "; ".join(module.features[name].text for name in named if name in module.features)


class Nearest(NamedTuple):
    """The installed technique that is structurally nearest to one."""

    label: str
    distance: float
    changes: list[Change]
    also: list[str]
    """Others that are as near."""

    def text(self, name: str) -> str:
        """The relation in words: X = Y with these properties changed."""
        also = f" (as near: {', '.join(self.also)})" if self.also else ""
        if not self.changes:
            return f"{name} = {self.label} in every property; what differs is the function{also}"
        return f"{name} = {self.label} with " + "; ".join(change.text for change in self.changes) + also


def nearest(target: Structure, known: Sequence[Structure]) -> Nearest | None:
    """The nearest of ``known``; of several as near, the one with the fewest changes. None if none is known."""
    if not known:
        return None
    found = [(distance(other, target), changes(other, target), other.label) for other in known]
    found.sort(key=lambda item: (round(item[0], 12), len(item[1]), item[2]))
    first = found[0]
    also = [label for apart, _, label in found[1:] if abs(apart - first[0]) < 1e-12]
    return Nearest(first[2], first[0], first[1], also)
