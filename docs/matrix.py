"""Write docs/matrix.md: the conformance kit on every installed technique x backbone family.

    python docs/matrix.py                                   # everything; writes docs/matrix.md
    python docs/matrix.py --technique lora --family bert    # a part; prints the page
    python docs/matrix.py --json results.json               # every result as data, too

Runs on the families' tiny models, in two processes, with the options of the plugin's own tests on all families, which
suit so small models. Exits with 1 if anything fails. What these tests exempt from the kit is exempt here too, and
listed with its reason.
"""

from __future__ import annotations

import argparse
import ast
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "matrix.md"
ELSEWHERE = "checked in another cell"
PLUGIN = "plugin"
"""The column of the checks that are about a technique alone, on no one family."""


@dataclass
class Cell:
    """A technique on one family: what each check showed."""

    technique: str
    family: str
    results: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    """Why nothing could be checked at all: a plugin that does not load, a process that died."""
    seconds: float = 0.0

    def count(self, *outcomes: str) -> int:
        """How many results are of these outcomes."""
        return sum(result["outcome"] in outcomes for result in self.results)

    @property
    def state(self) -> str:
        """``pass``, ``not applicable`` or ``FAIL``."""
        if self.error or self.count("failed", "error"):
            return "FAIL"
        on_models = [result for result in self.results if result["model"]]
        if on_models and all(result["outcome"] in ("skipped", "exempt") for result in on_models):
            return "not applicable"
        return "pass" if self.count("passed") else "FAIL"


@dataclass
class Own:
    """What a technique's own conformance class on all families says."""

    options: dict[str, Any] = field(default_factory=dict)
    exempt: dict[str, str] = field(default_factory=dict)


def own_tests(root: Path = ROOT) -> dict[str, Own]:
    """The first such class of each technique, by the technique's name; read without importing it."""
    found: dict[str, Own] = {}
    for path in sorted(root.glob("plugins/techniques/*/tests/test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.ClassDef) or "TechniqueConformance" not in map(ast.unparse, node.bases):
                continue
            said: dict[str, Any] = {}
            for item in node.body:
                target = item.targets[0] if isinstance(item, ast.Assign) else getattr(item, "target", None)
                if isinstance(target, ast.Name) and target.id in ("technique", "exempt", "options", "families"):
                    try:
                        said[target.id] = ast.literal_eval(item.value)  # type: ignore[attr-defined]
                    except ValueError:
                        continue
            if isinstance(said.get("technique"), str) and "families" not in said:
                exempt = {name.removeprefix("test_"): why for name, why in said.get("exempt", {}).items()}
                found.setdefault(said["technique"], Own(said.get("options", {}), exempt))
    return found


def run_cell(technique: str, family: str, own: Own) -> Cell:
    """Run the kit on one technique and family (or what is about the plugin alone); never raises."""
    started, cell = time.perf_counter(), Cell(technique, family)
    try:
        import torch

        from refarch.plugins import default_registry
        from refarch.testing import CHECKS, run_checks

        torch.set_num_threads(1)
        default_registry().technique(technique)
        alone = family == PLUGIN
        others = {name: ELSEWHERE for name, check in CHECKS.items() if check.once != alone}
        report = run_checks(
            technique, own.options, families=None if alone else [family], exempt={**own.exempt, **others}
        )
        cell.results = [result.model_dump() for result in report.results if result.message != ELSEWHERE]
    except Exception as error:  # a broken plugin is one cell's result
        cell.error = f"{type(error).__name__}: {error}"
    cell.seconds = round(time.perf_counter() - started, 1)
    return cell


def run_all(jobs: list[tuple[str, str, Own]], processes: int) -> Iterator[Cell]:
    """All cells as they finish. A process that dies costs its own cell: what it took along runs again, one by one."""
    context, left = multiprocessing.get_context("spawn"), list(jobs)
    if processes > 1:
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            futures = {pool.submit(run_cell, *job): job for job in jobs}
            for future in as_completed(futures):
                try:
                    cell = future.result()
                except BrokenExecutor:
                    continue
                left.remove(futures[future])
                yield cell
    for job in left:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                yield pool.submit(run_cell, *job).result()
            except BrokenExecutor as error:
                yield Cell(job[0], job[1], error=f"the process died: {error}")


def page(cells: list[Cell]) -> str:
    """The page as Markdown."""
    cells = sorted(cells, key=lambda cell: (cell.technique, cell.family))
    by_place = {(cell.technique, cell.family): cell for cell in cells}
    columns = sorted({cell.family for cell in cells}, key=lambda name: (name != PLUGIN, name))
    states = Counter(cell.state for cell in cells)
    results = Counter(result["outcome"] for cell in cells for result in cell.results)
    techniques = sorted({cell.technique for cell in cells})
    lines = [
        "# Conformance: every technique on every family",
        "",
        f"{len(techniques)} techniques x {len(columns) - (PLUGIN in columns)} families."
        f" Of {len(cells)} cells **{states['pass']} pass**,"
        f" {states['not applicable']} not applicable, **{states['FAIL']} fail**."
        f" In single checks: {results['passed']}"
        f" passed, {results['skipped']} not applicable, {results['exempt']} exempt,"
        f" {results['failed'] + results['error']} failed.",
        "",
        "Each cell is the conformance kit on the family's tiny model, with the options of the plugin's own tests,"
        " under each of its auto classes: the number of"
        " checks passed, and after + of those that have nothing to check there."
        " Under `plugin` are the checks of a technique by itself. `n/a` refers to the reasons below."
        " `python docs/matrix.py` writes this page.",
        "",
        f"| technique | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    reasons: dict[str, int] = {}
    for technique in techniques:
        row = []
        for family in columns:
            cell = by_place.get((technique, family))
            row.append(_shown(cell, reasons) if cell else "not run")
        lines.append(f"| `{technique}` | {' | '.join(row)} |")
    lines += _failures(cells)
    lines += ["", "## Where a technique does not apply", ""]
    lines += [f"{number}. {reason}" for reason, number in reasons.items()] or ["It applies everywhere."]
    lines += ["", "## Checks with nothing to check, and exempt ones", ""]
    lines += _skips(cells)
    return "\n".join(lines) + "\n"


def _shown(cell: Cell, reasons: dict[str, int]) -> str:
    if cell.state == "FAIL":
        return "**FAIL**"
    if cell.state == "not applicable":
        message = next(result["message"] for result in cell.results if result["model"])
        reason = _plain(message, cell)
        return f"n/a ({reasons.setdefault(reason, len(reasons) + 1)})"
    skipped = cell.count("skipped", "exempt")
    return f"{cell.count('passed')}" + (f"+{skipped}" if skipped else "")


def _failures(cells: list[Cell]) -> list[str]:
    lines = []
    for cell in cells:
        if cell.state != "FAIL":
            continue
        place = f"`{cell.technique}` on `{cell.family}`"
        if cell.error or not cell.results:
            lines.append(f"- {place}: {_line(cell.error or 'no check ran')}")
        by_message: dict[str, list[str]] = {}
        for result in cell.results:
            if result["outcome"] in ("failed", "error"):
                check = f"`{result['check']}`" + (f" ({result['model']})" if result["model"] else "")
                by_message.setdefault(_line(result["message"]), []).append(check)
        lines += [f"- {place}: {', '.join(checks)}: {message}" for message, checks in by_message.items()]
    return ["", "## Failures", "", *lines] if lines else []


def _skips(cells: list[Cell]) -> list[str]:
    """One line for each check and reason, with the techniques and families that it stands for."""
    found: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        if cell.state == "not applicable":
            continue
        for result in cell.results:
            if result["outcome"] in ("skipped", "exempt"):
                key = (result["check"], result["outcome"], _plain(result["message"], cell))
                found.setdefault(key, []).append(cell)
    lines = []
    for (check, outcome, reason), places in sorted(found.items()):
        who = ", ".join(f"`{name}`" for name in sorted({cell.technique for cell in places}))
        where = ", ".join(sorted({cell.family for cell in places}))
        word = "exempt: " if outcome == "exempt" else ""
        lines.append(f"| `{check}` | {_cell(word + reason)} | {who} | {where} |")
    head = ["| check | reason | techniques | families |", "|---|---|---|---|"]
    return [*head, *lines] if lines else ["None."]


def _plain(message: str, cell: Cell) -> str:
    """A reason without what differs from cell to cell, so that equal ones are listed once."""
    text = _line(message).partition(" hint: ")[0]
    for result in cell.results:
        if result["model"]:
            text = text.replace(result["model"], "the model")
    return text.replace(f"'{cell.technique}'", "the technique")


def _line(text: str) -> str:
    flat = " ".join(text.split())
    return flat.replace("<", "&lt;").replace("*", "\\*")[:600]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--technique", action="append", help="only this technique; repeatable")
    parser.add_argument("--family", action="append", help="only this family; repeatable")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every result as JSON")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the page goes")
    chosen = parser.parse_args(arguments)
    from refarch import FamilySpec
    from refarch.plugins import default_registry

    registry = default_registry()
    broken = [item for item in registry.check() if item.kind in ("technique", "backbone") and item.status != "ok"]
    families = chosen.family or sorted(family.name for family in registry.families() if isinstance(family, FamilySpec))
    techniques = chosen.technique or registry.names("technique")
    said = own_tests()
    jobs = [
        (technique, family, said.get(technique, Own())) for technique in techniques for family in [PLUGIN, *families]
    ]
    cells: list[Cell] = []
    started = time.perf_counter()
    for cell in run_all(jobs, chosen.processes):
        cells.append(cell)
        print(
            f"[{len(cells)}/{len(jobs)} {time.perf_counter() - started:.0f}s] {cell.technique} x {cell.family}:"
            f" {cell.state}, {cell.count('passed')} passed, {cell.count('skipped')} n/a ({cell.seconds}s)"
            + (f" {cell.error}" if cell.error else ""),
            file=sys.stderr,
            flush=True,
        )
    text = page(cells)
    unloaded = [item for item in broken if item.kind == "backbone" and not chosen.family]
    if unloaded:
        names = "".join(f"- `{item.name}` ({item.status}): {_line(item.problem)}\n" for item in unloaded)
        text += f"\n## Backbone plugins that do not load\n\n{names}"
    if chosen.json:
        chosen.json.write_text(json.dumps([{**asdict(cell), "state": cell.state} for cell in cells], indent=1))
    output = chosen.output or (None if chosen.technique or chosen.family else PAGE)
    if output:
        output.write_text(text, encoding="utf-8")
        print(f"wrote {output}", file=sys.stderr)
    else:
        print(text)
    return 1 if unloaded or any(cell.state == "FAIL" for cell in cells) else 0


if __name__ == "__main__":
    sys.exit(main())
