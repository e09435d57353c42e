"""The report as one HTML page that works offline: tables, plots and pictures, with style and scripts inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import refarch
from refarch import svg
from refarch_compare.diagram.draw import diagram
from refarch_compare.report import rank_picture
from refarch_compare.report.figures import SHOWN
from refarch_compare.report.payload import payload
from refarch_compare.report.report import Report
from refarch_compare.report.reproduce import commands, recipe, studies
from refarch_compare.report.results import Result, common
from refarch_compare.report.sections import column_cells, columns, pairs, relation, typology
from refarch_compare.report.statistics import Comparison, Ranks

SCRIPTS = ("base", "filter", "table", "chart", "tradeoff", "curves", "page")
"""In the order in which they run."""


UNFOLDED = 12
"""The layers of more techniques than these are shown on demand."""


def html(report: Report) -> str:
    """The whole page."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_asset("report.html.jinja")).render(
        **_words(report),
        **_tables(report),
        style=Markup(_asset("report.css") + _hues()),
        script=Markup("\n".join(_asset(f"{name}.js") for name in SCRIPTS)),
        payload=Markup(payload(report)),
    )


def _asset(name: str) -> str:
    return (resources.files("refarch_compare.report") / "assets" / name).read_text(encoding="utf-8")


def _hues() -> str:
    """The colours of names, for light and dark pages, as the pictures have them."""
    rules = "".join(
        f".h{i} {{{{ fill: {{h{i}}}; color: {{h{i}}}; }}}} .mark.hollow.h{i}, .stroke{i} {{{{ stroke: {{h{i}}}; }}}}\n"
        for i in range(len(svg.HUES))
    )
    return svg.two_schemes(rules, {f"h{i}": pair for i, pair in enumerate(svg.HUES)})


def source(picture: str) -> str:
    """A picture as the source of an image, which keeps its style to itself."""
    return "data:image/svg+xml;base64," + base64.b64encode(picture.encode()).decode()


def _words(report: Report) -> dict[str, Any]:
    """What stands above and around the tables."""
    present = [
        ("findings", "Findings"),
        ("results", "Results"),
        ("tradeoffs", "Trade-offs"),
        ("curves", "Learning curves"),
        ("statistics", "Statistics"),
        *([("structure", "Structure")] if report.structures else []),
        ("relation", "Structure and results"),
        ("reproduce", "Reproduce"),
        ("evidence", "Evidence"),
    ]
    rows = [row for result in report.results.results for row in result.rows]
    devices = sorted({row.device for row in rows if row.device})
    made = sorted({row.provenance.partition(",")[0] for row in rows if not row.imported})
    lines = [
        f"{len(report.evidence.rows):,} records were read below {', '.join(report.roots)}"
        + (f", {len(rows):,} of which meet {report.where}" if report.where else "")
        + "."
    ]
    lines += [f"Devices: {', '.join(devices)}."] if devices else []
    lines += [f"Runs were made by {', '.join(made)}."] if made else []
    return {
        "title": report.title,
        "counts": report.counts(),
        "version": refarch.__version__,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "sources": ", ".join(report.roots),
        "warnings": report.warnings(),
        "sections": present,
        "level": f"{1 - report.alpha:.0%}",
        "evidence": lines,
        "skipped": report.evidence.problems,
        "failed": report.failed,
        "commands": commands(report),
        "rank_sentences": [found.ranking.sentence() for found in report.ranks if found.ranking],
        "studies": studies(report),
    }


def _tables(report: Report) -> dict[str, Any]:
    """What the tables show, and the pictures."""
    from refarch_compare.structure.picture import picture, survey

    cells: dict[str, dict[str, Any]] = {}
    for found in report.comparisons:
        ends, shared = _ends(found), common(found.results)
        cells |= {result.id: _shown(result, ends, shared) for result in found.results}
    shown_columns = columns(report, SHOWN)
    pictures = []
    if len(report.structures) > 2:
        drawn = picture(survey([own for _, own in report.structures]))
        pictures.append({"title": "The techniques of this report by their structure", "source": source(drawn)})
    return {
        "columns": shown_columns,
        "results": [
            {**cells[result.id], **_recipe(result), "cells": column_cells(result, shown_columns)}
            for result in report.ordered
        ],
        "comparisons": [
            _comparison(found, [{**cells[r.id], "pscp": _number(found.pscp.get(r.id))} for r in found.results])
            for found in report.comparisons
        ],
        "ranks": [_ranks(found) for found in report.ranks],
        "typology": typology(report.structures),
        "pictures": pictures,
        "layers": [{"title": name, "source": source(diagram([(name, spec)]))} for name, spec in report.techniques],
        "folded": len(report.techniques) > UNFOLDED,
        "relation": relation(report.relation),
    }


def _ends(comparison: Comparison) -> tuple[float, float]:
    """What the bars of a setting's intervals reach from and to."""
    values = [v for r in comparison.results for v in (r.interval.mean, r.interval.low, r.interval.high)]
    known = [value for value in values if value is not None]
    return min(known), max(known)


def _shown(result: Result, ends: tuple[float, float], shared: Sequence[str]) -> dict[str, Any]:
    """A result's own cells."""
    found = result.interval

    def at(value: float) -> float:
        return round(3 + 94 * (value - ends[0]) / (ends[1] - ends[0]), 2) if ends[1] > ends[0] else 50.0

    known = found.low is not None and found.high is not None
    left = at(found.low) if found.low is not None else None
    return {
        "id": result.id,
        "name": result.name,
        "settings": result.own(shared),
        "title": result.setting.title,
        "metric": result.setting.metric,
        "imported": result.setting.imported,
        "n": found.n,
        "score": f"{found.mean:#.4g}",
        "range": f"{found.low:#.4g} to {found.high:#.4g}" if known else "",
        "left": left,
        "width": round(at(found.high) - left, 2) if found.high is not None and left is not None else 0,
        "at": at(found.mean),
        "spread": _number(found.spread),
    }


def _recipe(result: Result) -> dict[str, Any]:
    made = recipe(result)
    rows = [
        {
            "seed": "" if row.seed is None else row.seed,
            "score": f"{row.score:.6g}",
            "path": row.path,
            "provenance": row.provenance,
        }
        for row in result.rows
    ]
    return {"file": made.file, "pipeline": made.encoded, "commands": made.commands, "rows": rows}


def _comparison(found: Comparison, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    told, few = len(found.told), sum(pair.verdict == "too few blocks" for pair in found.pairs)
    listed = pairs(found.pairs)
    summary = f"{len(found.pairs):,} pairs: {told} told apart, {len(found.pairs) - told - few} within noise, {few} with"
    summary += " too few seeds"
    if len(listed) < len(found.pairs):
        summary += " (not listed)"
    return {
        "title": found.setting.title,
        "imported": found.setting.imported,
        "metric": found.setting.metric,
        "common": ", ".join(common(found.results)),
        "verdict": found.verdict,
        "results": results,
        "pairs": listed,
        "pairs_summary": summary,
        "pscp": bool(found.pscp),
        "pscp_note": f" ({found.pscp_note})" if found.pscp_note else "",
    }


def _ranks(found: Ranks) -> dict[str, Any]:
    ranking = found.ranking
    return {
        "imported": found.origin != "run",
        "sentence": ranking.sentence() if ranking else f"No ranks: {found.why}",
        "picture": source(rank_picture.picture(ranking)) if ranking else "",
        "difference": f"{ranking.critical_difference:.2f}" if ranking else "",
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
