"""What the evidence cannot separate: properties that occur only together, or nearly so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from refarch_compare.relate.design import COVARIATES, Column, Design

Kind = Literal["the same rows", "a combination", "nearly a combination", "one technique"]

NEARLY = 0.9
"""The R-squared on all others from which on a column is called nearly a combination of them."""
PRECISION = 1e-8


class Confound(NamedTuple):
    """Some columns whose effects the evidence cannot tell apart."""

    kind: Kind
    columns: tuple[str, ...]
    words: str


class Separated(NamedTuple):
    """What is left to estimate, and what could not be told apart."""

    columns: tuple[Column, ...]
    """Independent columns: one stands for those that are the same."""
    aliases: dict[str, tuple[str, ...]]
    """Of a column that is kept: the columns whose effects are in its own."""
    confounds: tuple[Confound, ...]


def separate(design: Design) -> Separated:
    """Find what occurs only together, and keep columns that can be estimated side by side.

    Covariates and what rows are grouped by come first, so that an effect that might as well be the budget's, the
    learning rate's or the backbone's is not called a property's.
    """
    fixed = [Column(name, "", "", dummy) for name, labels in design.groups.items() for dummy in dummies(labels)]
    covariates = [column for column in design.columns if not column.value]
    candidates = sorted((c for c in design.columns if c.value), key=_commonness)
    kept: list[Column] = [*fixed, *covariates]
    aliases: dict[str, list[str]] = {}
    confounds: list[Confound] = []
    for column in candidates:
        twin = next((other for other in kept if _same(other.numbers, column.numbers)), None)
        if twin is not None:
            aliases.setdefault(_name(twin), []).append(column.name)
            continue
        combination = _combination(column, kept)
        if combination:
            confounds.append(
                Confound(
                    "a combination",
                    (column.name, *combination),
                    f"{column.name} cannot be separated from {_and(combination)}: in these rows it is fixed by them",
                )
            )
            for name in combination:
                aliases.setdefault(name, []).append(column.name)
            continue
        kept.append(column)
    for name, others in list(aliases.items()):
        same = tuple(o for o in others if not any(o in c.columns for c in confounds))
        if same:
            words = f"{_and((name, *same))} cannot be separated: one occurs where the other does, or where it does not"
            confounds.append(Confound("the same rows", (name, *same), words))
    estimated = tuple(column for column in kept if column not in fixed)
    confounds += _near(estimated, kept)
    confounds += _lonely(estimated, design)
    return Separated(estimated, {name: tuple(dict.fromkeys(o)) for name, o in aliases.items()}, tuple(confounds))


def dummies(labels: Sequence[str]) -> list[np.ndarray]:
    """A column for each label but the first."""
    return [np.array([float(item == label) for item in labels]) for label in sorted(set(labels))[1:]]


def _commonness(column: Column) -> tuple[float, str, str]:
    """Balanced columns first: they say most."""
    return abs(float(column.numbers.mean()) - 0.5), column.of, column.value


def _name(column: Column) -> str:
    return column.name if column.value or column.of in COVARIATES else column.of


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal, or each other's complement."""
    a, b = one - one.mean(), other - other.mean()
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return scale > 0 and abs(abs(float(a @ b)) - scale) <= PRECISION * scale


def _explained(target: np.ndarray, others: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
    """R-squared of a column on others, and their coefficients."""
    centred = target - target.mean()
    total = float(centred @ centred)
    if not others or total == 0:
        return 0.0, np.zeros(len(others))
    matrix = np.column_stack([other - other.mean() for other in others])
    coefficients, *_ = np.linalg.lstsq(matrix, centred, rcond=None)
    rest = centred - matrix @ coefficients
    return 1 - float(rest @ rest) / total, coefficients


def _combination(column: Column, kept: Sequence[Column]) -> tuple[str, ...]:
    """The kept columns that together fix this one, as few as will do; nothing if they do not."""
    explained, coefficients = _explained(column.numbers, [other.numbers for other in kept])
    if explained < 1 - PRECISION:
        return ()
    needed = [other for other, weight in zip(kept, coefficients, strict=True) if abs(weight) > 1e-6]
    for other in sorted(needed, key=lambda o: _commonness(o), reverse=True):
        rest = [item for item in needed if item is not other]
        if rest and _explained(column.numbers, [item.numbers for item in rest])[0] > 1 - PRECISION:
            needed = rest
    return tuple(dict.fromkeys(_name(other) for other in needed))


def _near(estimated: Sequence[Column], kept: Sequence[Column]) -> list[Confound]:
    found = []
    for column in estimated:
        others = [other for other in kept if other is not column]
        explained, _ = _explained(column.numbers, [other.numbers for other in others])
        if explained < NEARLY:
            continue
        alone = {_name(other): _explained(column.numbers, [other.numbers])[0] for other in others}
        partners = tuple(sorted(alone, key=lambda name: -alone[name])[: 2 if max(alone.values()) < NEARLY else 1])
        words = (
            f"{column.name} can hardly be separated from {_and(partners)}: {explained:.0%} of it is fixed by the rest,"
            f" which makes its interval {(1 / (1 - explained)) ** 0.5:.1f} times as wide"
        )
        found.append(Confound("nearly a combination", (column.name, *partners), words))
    return found


def _lonely(estimated: Sequence[Column], design: Design) -> list[Confound]:
    found = []
    techniques = np.array([row.technique for row in design.rows])
    for column in estimated:
        if not column.value:
            continue
        inside = set(techniques[column.numbers == 1])
        if len(inside) == 1 and len(set(techniques)) > 2:
            name = next(iter(inside))
            words = f"{column.name} is found in {name} alone: it cannot be told from whatever else {name} is"
            found.append(Confound("one technique", (column.name, f"technique {name}"), words))
    return found


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
