"""The report as Markdown, and its results as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import refarch
from refarch import terminal
from refarch_compare.report.figures import SHOWN
from refarch_compare.report.report import Report
from refarch_compare.report.reproduce import commands, recipe
from refarch_compare.report.results import common
from refarch_compare.report.sections import cell, columns, pairs, relation, typology
from refarch_compare.report.statistics import Comparison


def markdown(report: Report) -> str:
    """The tables and sentences of the report, without plots."""
    parts = [f"# {_escaped(report.title)}", report.counts()]
    parts += [f"Made by refarch {refarch.__version__} from {', '.join(report.roots)}."]
    parts += ["\n".join(f"- {_escaped(warning)}" for warning in report.warnings())] if report.warnings() else []
    parts += ["## Findings", "\n".join(f"- {line}" for line in _findings(report))]
    parts += [part for found in report.comparisons for part in _comparison(report, found)]
    parts += _structure(report)
    parts += ["## How to reproduce each number", f"```bash\n{commands(report)}\n```", *_recipes(report)]
    return "\n\n".join([*parts, *_problems(report)]) + "\n"


def _comparison(report: Report, found: Comparison) -> Iterable[str]:
    """One setting's results, and the pairs of which anything can be said."""
    level, shared = f"{1 - report.alpha:.0%}", common(found.results)
    figures = [c for c in columns(report, SHOWN) if c.figure is not None and not c.hidden]
    yield f"## {_escaped(found.setting.title)}"
    yield f"{_escaped(found.verdict)}."
    if shared:
        yield f"All with {_escaped(', '.join(shared))}."
    head = ["result", found.setting.metric, f"{level} interval", "runs", *(c.label for c in figures), "settings"]
    rows = []
    for r in found.results:
        low, high = r.interval.low, r.interval.high
        span = "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
        own = [_marked(r.name, r.setting.imported), f"{r.interval.mean:.4g}", span, str(r.interval.n)]
        rows.append([*own, *(cell(r, c) for c in figures), r.own(shared)])
    yield _table(head, rows)
    told = [_pair(pair) for pair in pairs(found.pairs) if pair["verdict"] != "too few blocks"]
    if told:
        yield _table(["pair", "verdict", "difference", f"{level} interval", "p (Holm)", "seeds"], told)


def _structure(report: Report) -> Iterable[str]:
    """The typology, and structure related to results."""
    table = typology(report.structures)
    if table:
        yield "## Structure"
        yield _table([table["corner"], *table["labels"]], [[name, *cells] for name, cells in table["rows"]])
        if table["relations"]:
            yield "\n".join(f"- {_escaped(line)}" for line in table["relations"])
    related = relation(report.relation)
    yield "## Structure and results"
    yield related["sentence"]
    if related["rows"]:
        yield _table(related["head"], related["rows"])
    if related["confounds"]:
        yield "\n".join(f"- {words}" for words in related["confounds"])


def _pair(pair: Mapping[str, Any]) -> list[str]:
    cells = pair["cells"]
    return [f"{pair['first']} against {pair['second']}", pair["verdict"], *cells[:3], cells[-1]]


def _findings(report: Report) -> Iterable[str]:
    for found in report.comparisons:
        yield f"**{_escaped(found.setting.title)}**: {_escaped(found.verdict)}."
    for ranks in report.ranks:
        yield _escaped(f"{ranks.ranking.sentence() if ranks.ranking else 'No ranks: ' + ranks.why}.")


def _recipes(report: Report) -> Iterable[str]:
    for result in report.ordered:
        made = recipe(result)
        yield f"### {_escaped(_marked(result.name, result.setting.imported))}, {_escaped(result.setting.title)}"
        rows = [[str(r.seed), f"{r.score:.6g}", f"`{r.path}`", r.provenance] for r in result.rows]
        yield _table(["seed", result.setting.metric, "record", "how it came about"], rows)
        if made.pipeline:
            yield f"`{made.file}`:\n\n```json\n{made.pipeline}\n```\n\n```bash\n{made.commands}\n```"


def _problems(report: Report) -> Iterable[str]:
    for title, found in (("Skipped", report.evidence.problems), ("Without a result", report.failed)):
        if found:
            yield f"## {title}\n\n" + "\n".join(f"- `{item.path}`: {item.reason}" for item in found)


def _marked(name: str, imported: bool) -> str:
    return f"{name} (imported)" if imported else name


def _escaped(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_escaped(text) for text in line) + " |" for line in lines)


def csv(report: Report) -> str:
    """A line a result: its setting, score, figures and structural properties."""
    every = columns(report, ())
    figures = [column.figure for column in every if column.figure is not None]
    properties = [column.label for column in every if column.key.startswith("property:")]
    head = ["result", "technique", "settings", "task", "backbone", "metric", "origin", "score", "low", "high", "runs"]
    rows = []
    for r in report.ordered:
        s, i = r.setting, r.interval
        own = [r.name, r.technique, r.settings, s.problem, s.backbone, s.metric, s.origin, i.mean, i.low, i.high, i.n]
        own += [r.figures[figure.name] for figure in figures]
        rows.append(own + [", ".join(r.properties.get(name, ())) for name in properties])
    return terminal.as_csv([*head, *(figure.name for figure in figures), *properties], rows)
