"""A covering sample of the cells of technique x family: few enough for every change, and none of either is left out.

All cells are many (techniques times families) and most show the same again, because a technique knows no family and a
family no technique. What a cell can show that others do not lies in the kind of backbone and in the form of the
technique. So the sample has each technique on one family of each kind, and each family with one technique of each
form: each functional form, and each integration form. It is chosen by hashes of names, the same in every process, so
that the union over techniques and families is wide. A package with few techniques needs no sample; it tests all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from refarch.architecture import FamilySpec, TechniqueSpec

Cell = tuple[str, str]
"""A technique's and a family's name."""
Applies = Callable[[str, str], bool]
"""Whether a technique exists on a family, both by name."""
CHOICE: pytest.StashKey[Callable[[type, str, Any], bool]] = pytest.StashKey()
"""In the configuration of a test session: whether a conformance class runs a check, by its name, on a case. Without it
every class runs all of its own, as it should in a plugin's package; who tests many plugins on many families sets it in
a conftest."""


def forms(technique: TechniqueSpec) -> frozenset[tuple[str, str]]:
    """The functional and the integration forms of its modules: what a family has to carry."""
    found = {("form", str(module.form)) for module in technique.modules}
    return frozenset(found | {("integration", str(module.integration)) for module in technique.modules})


def covering(
    techniques: Sequence[TechniqueSpec], families: Sequence[FamilySpec], applies: Applies = lambda *names: True
) -> frozenset[Cell]:
    """The sample: each technique on a family of each kind, each family with a technique of each form.

    Where several would do, a family takes one that brings most of what it lacks, then one that is still wanted on its
    kind, then by hash.

    Args:
        techniques: all that there are.
        families: all that there are.
        applies: which cells exist; others are not chosen.
    """
    kinds = {family.name: str(family.kind) for family in families}
    carried = {technique.name: forms(technique) for technique in techniques}
    chosen: set[Cell] = set()

    def on_kind(technique: str, kind: str) -> int:
        return sum(name == technique and kinds[family] == kind for name, family in chosen)

    for family in sorted(kinds, key=_hash):
        there = [name for name in carried if applies(name, family)]
        lacking = {form for name in there for form in carried[name]}
        while lacking:
            best = min(
                there,
                key=lambda name: (-len(carried[name] & lacking), on_kind(name, kinds[family]), _hash(name, family)),
            )
            chosen.add((best, family))
            lacking -= carried[best]
    for technique in carried:
        for kind in sorted(set(kinds.values())):
            there = [family for family in kinds if kinds[family] == kind and applies(technique, family)]
            if there and not on_kind(technique, kind):
                chosen.add((technique, min(there, key=lambda family: _hash(technique, family))))
    return frozenset(chosen)


def missing(
    cells: Iterable[Cell],
    techniques: Sequence[TechniqueSpec],
    families: Sequence[FamilySpec],
    applies: Applies = lambda *names: True,
) -> list[str]:
    """What a choice of cells does not cover, in words; empty if it is a covering one. Arguments as above."""
    cells = set(cells)
    found = []
    for technique in techniques:
        there = {str(family.kind) for family in families if applies(technique.name, family.name)}
        covered = {str(family.kind) for family in families if (technique.name, family.name) in cells}
        found += [f"technique {technique.name!r} on no family of kind {kind}" for kind in sorted(there - covered)]
    for family in families:
        on = [technique for technique in techniques if applies(technique.name, family.name)]
        there_forms = {form for technique in on for form in forms(technique)}
        carried = {form for technique in on if (technique.name, family.name) in cells for form in forms(technique)}
        found += [f"family {family.name!r} with no technique of {' '.join(f)}" for f in sorted(there_forms - carried)]
    return found


def one_of(items: Sequence[str], *names: str) -> str:
    """One of them, by the hash of names: the same everywhere, and over many names all of them."""
    return min(items, key=lambda item: _hash(item, *names))


def _hash(*names: str) -> str:
    """Digits that look random and are the same everywhere."""
    return hashlib.sha256("/".join(names).encode()).hexdigest()
