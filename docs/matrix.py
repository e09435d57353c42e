"""Write docs/matrix.md: the conformance kit on every installed technique x backbone family.

    python docs/matrix.py                                   # what is out of date; killed, it goes on where it was
    python docs/matrix.py --technique lora --family bert    # of these alone
    python docs/matrix.py --plugins                         # not what only the core's own code has outdated
    python docs/matrix.py --again                           # what is up to date, too
    python docs/matrix.py --check                           # runs nothing; exits with 1 if something is out of date

Runs on the families' tiny models, in two processes, with the options of the plugin's own tests on all families, which
suit so small models. Results go to docs/matrix.jsonl as they come, each with digests of what it ran on (of what, says
tests/digests.py); the page is written from that file. Exits with 1 if anything fails. What these tests exempt from the
kit is exempt here too, and listed with its reason.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from cells import RESULTS, Cell, Matrix  # noqa: E402 - a folder of files, not a package
from digests import PLUGIN, Digests, Own  # noqa: E402

PAGE = ROOT / "docs" / "matrix.md"
ELSEWHERE = "checked in another cell"
Job = tuple[str, str, Own, dict[str, str]]
"""Technique, family, what its own tests say, and the digests of what it runs on."""


def run_cell(technique: str, family: str, own: Own, ran_on: dict[str, str]) -> Cell:
    """Run the kit on one technique and family (or what is about the plugin alone); never raises."""
    started, cell = time.perf_counter(), Cell(technique, family, ran_on=ran_on)
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
        results = [result for result in report.results if result.message != ELSEWHERE]
        cell.passed = sum(result.outcome == "passed" for result in results)
        cell.others = [[r.check, r.outcome, r.model, r.message] for r in results if r.outcome != "passed"]
    except Exception as error:  # a broken plugin is one cell's result
        cell.error = f"{type(error).__name__}: {error}"
    cell.seconds = round(time.perf_counter() - started, 1)
    return cell


def run_all(jobs: list[Job], processes: int) -> Iterator[Cell]:
    """All cells as they finish. A process that dies costs its own cell: what it took along runs again, one by one.

    With no processes they run in this one.
    """
    if processes == 0:
        yield from (run_cell(*job) for job in jobs)
        return
    context, left = multiprocessing.get_context("spawn"), list(jobs)
    if len(jobs) > 1:
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
                yield Cell(*job[:2], ran_on=job[3], error=f"the process died: {error}")


def page(cells: list[Cell]) -> str:
    """The page as Markdown."""
    cells = sorted(cells, key=lambda cell: (cell.technique, cell.family))
    by_place = {(cell.technique, cell.family): cell for cell in cells}
    columns = sorted({cell.family for cell in cells}, key=lambda name: (name != PLUGIN, name))
    states = Counter(cell.state for cell in cells)
    outcomes = Counter(outcome for cell in cells for _, outcome, _, _ in cell.others)
    techniques = sorted({cell.technique for cell in cells})
    lines = [
        "# Conformance: every technique on every family",
        "",
        f"{len(techniques)} techniques x {len(columns) - (PLUGIN in columns)} families."
        f" Of {len(cells)} cells **{states['pass']} pass**,"
        f" {states['not applicable']} not applicable, **{states['FAIL']} fail**."
        f" In single checks: {sum(cell.passed for cell in cells)}"
        f" passed, {outcomes['skipped']} not applicable, {outcomes['exempt']} exempt,"
        f" {outcomes['failed'] + outcomes['error']} failed.",
        "",
        "Each cell is the conformance kit on the family's tiny model, with the options of the plugin's own tests,"
        " under each of its auto classes: the number of"
        " checks passed, and after + of those that have nothing to check there."
        " Under `plugin` are the checks of a technique by itself. `n/a` refers to the reasons below."
        " `python docs/matrix.py` writes this page, from `docs/matrix.jsonl`, and runs what is out of date there.",
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
    lines += ran_on(cells)
    return "\n".join(lines) + "\n"


def _shown(cell: Cell, reasons: dict[str, int]) -> str:
    if cell.state == "FAIL":
        return "**FAIL**"
    if cell.state == "not applicable":
        message = next(message for _, _, model, message in cell.others if model)
        reason = _plain(message, cell)
        return f"n/a ({reasons.setdefault(reason, len(reasons) + 1)})"
    skipped = cell.count("skipped", "exempt")
    return f"{cell.passed}" + (f"+{skipped}" if skipped else "")


def _failures(cells: list[Cell]) -> list[str]:
    lines = []
    for cell in cells:
        if cell.state != "FAIL":
            continue
        place = f"`{cell.technique}` on `{cell.family}`"
        if cell.error or not (cell.passed or cell.others):
            lines.append(f"- {place}: {_line(cell.error or 'no check ran')}")
        by_message: dict[str, list[str]] = {}
        for check, outcome, model, message in cell.others:
            if outcome in ("failed", "error"):
                by_message.setdefault(_line(message), []).append(f"`{check}`" + (f" ({model})" if model else ""))
        lines += [f"- {place}: {', '.join(checks)}: {message}" for message, checks in by_message.items()]
    return ["", "## Failures", "", *lines] if lines else []


def _skips(cells: list[Cell]) -> list[str]:
    """One line for each check and reason, with the techniques and families that it stands for."""
    found: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        if cell.state == "not applicable":
            continue
        for check, outcome, _, message in cell.others:
            if outcome in ("skipped", "exempt"):
                key = (check, outcome, _plain(message, cell))
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
    for model in {model for _, _, model, _ in cell.others if model}:
        text = text.replace(model, "the model")
    return text.replace(f"'{cell.technique}'", "the technique")


def _line(text: str) -> str:
    flat = " ".join(text.split())
    return flat.replace("<", "&lt;").replace("*", "\\*")[:600]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def ran_on(cells: list[Cell]) -> list[str]:
    """The last section: which kit and core the cells ran on, by their digests; one row if all is up to date."""
    pairs = Counter((cell.ran_on.get("kit", "?"), cell.ran_on.get("core", "?")) for cell in cells)
    lines = ["", "## What it ran on", "", "| kit | core | cells |", "|---|---|---|"]
    return [*lines, *(f"| `{kit}` | `{core}` | {count} |" for (kit, core), count in sorted(pairs.items()))]


def places(techniques: list[str] | None = None, families: list[str] | None = None) -> list[tuple[str, str]]:
    """Technique and family of each cell that there should be. Cells of one family are neighbours: they share models."""
    from refarch.plugins import default_registry

    registry = default_registry()
    names = techniques or registry.names("technique")
    columns = [PLUGIN, *(families or sorted(family.name for family in registry.families()))]
    return [(technique, family) for family in columns for technique in names]


def out_of_date(matrix: Matrix, wanted: list[tuple[str, str]], digests: Digests) -> str:
    """In words, which cells are out of date and by what; empty if none is."""
    by_reason: dict[str, list[str]] = {}
    for (technique, family), differs in matrix.outdated(wanted, digests):
        by_reason.setdefault(" and ".join(differs), []).append(f"{technique} x {family}")
    return "\n".join(
        f"{len(cells)} of {len(wanted)} cells, by {reason}: {', '.join(cells[:8])}{', ...' * (len(cells) > 8)}"
        for reason, cells in by_reason.items()
    )


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[Cell], None]]:
    """A bar on a terminal, a line for each cell elsewhere; failures as lines on both."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar, count = bars.add_task("starting", total=total), 0

        def hear(cell: Cell) -> None:
            nonlocal count
            count += 1
            bars.update(bar, completed=count, description=f"{cell.technique} x {cell.family}")
            if not console.is_terminal or cell.state == "FAIL":
                console.print(
                    f"[{count}/{total}] {cell.technique} x {cell.family}: {cell.state}, {cell.passed} passed,"
                    f" {cell.count('skipped')} n/a ({cell.seconds}s) {cell.error}".rstrip()
                )

        yield hear


def written(matrix: Matrix, unloaded: list[str]) -> str:
    """The page, with what ran, and the backbone plugins that could not."""
    text = page(list(matrix.cells.values()))
    return text + ("\n## Backbone plugins that do not load\n\n" + "".join(unloaded) if unloaded else "")


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command's choices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--technique", action="append", help="only this technique; repeatable")
    parser.add_argument("--family", action="append", help="only this family; repeatable")
    parser.add_argument("--plugins", action="store_true", help="leave cells that only the core has outdated")
    parser.add_argument("--again", action="store_true", help="run cells that are up to date, too")
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    parser.add_argument("--processes", type=int, default=2, help="0: in this one")
    parser.add_argument("--results", type=Path, metavar="FILE", default=RESULTS, help="where results are kept")
    parser.add_argument("--output", type=Path, metavar="FILE", default=PAGE, help="where the page goes")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    chosen = parsed(arguments)
    from refarch.plugins import default_registry

    broken = [item for item in default_registry().check() if item.kind == "backbone" and item.status != "ok"]
    unloaded = [f"- `{item.name}` ({item.status}): {_line(item.problem)}\n" for item in broken]
    matrix, digests = Matrix.read(chosen.results), Digests()
    wanted = places(chosen.technique, chosen.family)
    if chosen.check:
        print(out_of_date(matrix, wanted, digests) or "up to date")
        return 1 if any(matrix.outdated(wanted, digests)) else 0
    old = dict(matrix.outdated(wanted, digests))
    jobs = [
        (*place, digests.own.get(place[0], Own()), digests.cell(*place))
        for place in wanted
        if chosen.again or (place in old and not (chosen.plugins and old[place] == ["core"]))
    ]
    with progress(len(jobs)) as hear:
        for cell in run_all(jobs, chosen.processes):
            matrix.add(cell, chosen.results)
            hear(cell)
    if chosen.results == RESULTS:
        matrix.keep(places())
    matrix.write(chosen.results)
    chosen.output.write_text(written(matrix, unloaded), encoding="utf-8")
    print(f"{len(jobs)} cells ran; wrote {chosen.output}", file=sys.stderr)
    return 1 if unloaded or any(cell.state == "FAIL" for cell in matrix.cells.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
