"""Tables that the page and the Markdown file share, as plain cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from refarch_compare.relate.relating import Relation
from refarch_compare.report.figures import Figure, shown
from refarch_compare.report.report import Report
from refarch_compare.report.results import Result, varying
from refarch_compare.stats.paired import Pair
from refarch_compare.structure.distance import nearest
from refarch_compare.structure.features import Structure

MOST_PAIRS = 300
"""Beyond so many pairs, those with too few blocks are counted and not listed."""
SIDE_BY_SIDE = 8
"""So many techniques are columns of the typology; more are its rows."""
TINY = 1e-12
"""A difference of scores below it is none: it comes from adding them up."""
RELATED = 20
"""For more techniques than these, what turns one into another is not written out."""


class Column(NamedTuple):
    """A column of the table of results."""

    key: str
    label: str
    number: bool = False
    optional: bool = False
    hidden: bool = False
    figure: Figure | None = None


def columns(report: Report, first: Sequence[str]) -> list[Column]:
    """The columns: those that tell nothing apart, and most figures and properties, are hidden until asked for."""
    settings = [result.setting for result in report.results.results]
    found = [Column("name", "result")]
    for key, label in (("problem", "task"), ("backbone", "backbone"), ("metric", "metric"), ("origin", "origin")):
        one = len({getattr(setting, key) for setting in settings}) == 1
        found.append(Column(key, label, optional=True, hidden=one))
    found.insert(1, Column("score", "score"))
    for figure in report.results.figures:
        found.append(Column(f"figure:{figure.name}", figure.label, True, True, figure.name not in first, figure))
    for name in varying(report.results.results):
        found.append(Column(f"property:{name}", name, optional=True, hidden=True))
    return found


def column_cells(result: Result, shown_columns: Sequence[Column]) -> list[tuple[Column, str]]:
    """A result's cell in each column."""
    return [(column, cell(result, column)) for column in shown_columns]


def cell(result: Result, column: Column) -> str:
    """A result's cell in one column, in words; empty for its name and score, which are more than words."""
    if column.figure is not None:
        return shown(result.figures[column.figure.name], column.figure.unit)
    if column.key.startswith("property:"):
        return ", ".join(result.properties.get(column.label, ()))
    return str(getattr(result.setting, column.key)) if column.key in result.setting._fields else ""


def pairs(found: Sequence[Pair]) -> list[dict[str, Any]]:
    """Pairs as cells: told apart first, then within noise, each by p."""
    order = ("better", "worse", "within noise", "too few blocks")
    listed = [pair for pair in found if len(found) <= MOST_PAIRS or pair.verdict != "too few blocks"]
    listed.sort(key=lambda pair: (order.index(pair.verdict) // 2, order.index(pair.verdict) > 2, pair.corrected_p or 0))
    return [
        {"first": pair.first, "second": pair.second, "verdict": pair.verdict, "cells": _pair_cells(pair)}
        for pair in listed
    ]


def _pair_cells(pair: Pair) -> list[str]:
    d = pair.difference
    if not pair.blocks:
        return ["", "", "", "", "", "", "0"]
    span = f"{d.low:+.3g} to {d.high:+.3g}" if d.low is not None and d.high is not None else ""
    mean, effect = (0.0, 0.0) if abs(d.mean) < TINY else (d.mean, pair.effect)
    numbers = [_p(pair.corrected_p), _p(pair.t_p), _p(pair.wilcoxon_p)]
    return [f"{mean:+.3g}", span, *numbers, "" if effect is None else f"{effect:+.2f}", str(pair.blocks)]


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}" if value >= 1e-4 else "< 0.0001"


def typology(structures: Sequence[tuple[str, Structure]]) -> dict[str, Any] | None:
    """The properties in which techniques differ: techniques side by side, or below each other where there are many."""
    if not structures:
        return None
    named = [(f"{name} / {m.name}" if len(s.modules) > 1 else name, m) for name, s in structures for m in s.modules]
    rows = []
    for key in dict.fromkeys(key for _, module in named for key in module.features):
        own = [module.features.get(key) for _, module in named]
        texts = [feature.text if feature else "-" for feature in own]
        if len(set(texts)) > 1 or len(named) == 1:
            rows.append((next(feature.label for feature in own if feature), texts))
    labels, corner = [name for name, _ in named], "property"
    if len(named) > SIDE_BY_SIDE:
        turned = [(name, [texts[i] for _, texts in rows]) for i, name in enumerate(labels)]
        labels, rows, corner = [label for label, _ in rows], turned, "technique"
    return {"corner": corner, "labels": labels, "rows": rows, "relations": relations(structures)}


def relations(structures: Sequence[tuple[str, Structure]]) -> list[str]:
    """Of each technique: the nearest other one of the report, and what turns one into the other."""
    if not 1 < len(structures) <= RELATED:
        return []
    found = []
    for name, own in structures:
        other = nearest(own, [item for label, item in structures if label != name])
        if other is not None:
            found.append(f"{other.text(name)} (distance {other.distance:.3f})")
    return found


def relation(found: Relation | str) -> dict[str, Any]:
    """Structure related to scores as a table, or the sentence that says why not."""
    if isinstance(found, str):
        return {"sentence": found, "head": [], "rows": [], "confounds": []}
    interval = f"{found.level:.0%} interval"
    rows = [
        [
            effect.name,
            f"rather than {effect.reference}" if effect.value else "all else equal",
            f"{effect.effect:+.3g}",
            f"{effect.low:.3g} to {effect.high:.3g}",
            f"{effect.corrected_p:.2g}",
            effect.verdict,
        ]
        for effect in found.effects
    ]
    marked = f" ({found.imported} of them imported)" if found.imported else ""
    sentence = (
        f"Which properties go with the score ({found.unit}), from {found.rows} rows{marked} of {found.configurations}"
        f" configurations of {found.techniques} techniques; {found.model}. These are associations in this evidence, not"
        " causes."
    )
    head = ["property", "reference", "effect", interval, "p (Holm)", "what it shows"]
    return {"sentence": sentence, "head": head, "rows": rows, "confounds": [c.words for c in found.confounds]}
