"""``refarch compare run``: run a study, or go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from refarch_compare.study.folder import StudyFolder
    from refarch_compare.study.plan import Plan
    from refarch_compare.study.spec import StudySpec


@click.command("run")
@click.argument("study", required=False, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="The study's folder; studies/NAME otherwise."
)
@click.option("--dry-run", is_flag=True, help="Check everything, solve the budget, show the cells, run nothing.")
@click.option("--retry", is_flag=True, help="Run cells again that have failed.")
@click.option("--report", is_flag=True, help="Write a report into the study's folder at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print the cells, with what became of them, as JSON.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def command(
    study: Path | None, out: Path | None, dry_run: bool, retry: bool, report: bool, as_json: bool, quiet: bool
) -> None:
    """Run a study: techniques x tasks x backbones x seeds, compared fairly.

    STUDY is a YAML file (`refarch compare schema` describes it), or the folder of a study that has begun. Without it
    the first study runs, which comes along: six techniques on the model and the data that are installed, some minutes
    on two cores, with a report at the end.

    The same command resumes a study that was interrupted, killed or extended, and several processes may run it at once:
    each takes cells that no other one works on. Everything is checked before anything runs.

    Runs of one seed share the order of the data and the head's first values. With a budget, each technique gets the
    size at which its modules have about so many trainable parameters. With a search, each technique's learning rate is
    searched on the validation split, with as many trials as every other one's.

    \b
    A study:
      techniques: [lora, {name: adapter, preset: pfeiffer}, {name: bitfit, budget: false}]
      tasks: [bbc-news]
      backbones: [minilm]
      seeds: 3
      training: {epochs: 2}
      budget: 50000
      search: {trials: 6, learning_rate: [1e-4, 1e-2]}

    \b
    Examples:
      refarch compare run
      refarch compare run study.yaml --dry-run
      refarch compare run study.yaml --out studies/mine --report
      refarch compare run studies/mine --retry
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch import terminal
    from refarch_compare.study.folder import StudyFolder
    from refarch_compare.study.plan import plan
    from refarch_compare.study.reading import FIRST

    report = report or study is None
    spec, folder = _read(study or FIRST, out)
    files = StudyFolder(folder)
    registry = _own_registry()
    planned = plan(spec, registry)
    if dry_run:
        click.echo(terminal.as_json(_cells(planned, None))) if as_json else _show_plan(planned)
        return
    files.begin(planned)
    if retry:
        from refarch_compare.study.work import forgive  # loads torch

        forgive(planned, files)
    again = " ".join(["refarch compare run", *([str(study)] if study else []), *(["--out", str(out)] if out else [])])
    _work(planned, files, registry, quiet, again)
    written = _report(planned, files, registry) if report else None
    if as_json:
        click.echo(terminal.as_json({**_cells(planned, files), "report": written and str(written)}))
    else:
        _show_results(planned, files)
        if written:
            click.echo(f"\nthe report, to open in a browser: {written}")
    _complain(planned, files)


def _read(path: Path, out: Path | None) -> tuple[StudySpec, Path]:
    from refarch.errors import DataError, UsageError
    from refarch.files import read_json
    from refarch_compare.study.reading import read_study
    from refarch_compare.study.spec import StudySpec

    if not path.is_dir():
        spec = read_study(path)
        return spec, out or Path("studies") / spec.name
    if out is not None and out.resolve() != path.resolve():
        raise UsageError(f"{path} is a study's folder, and --out names another one", "leave --out out to resume it")
    if not (path / "study.json").is_file():
        raise DataError(f"the folder {path} holds no study", "give a study's YAML file, or the folder of a study")
    return StudySpec.parse(read_json(path / "study.json"), str(path / "study.json")), path


def _own_registry() -> Any:
    """A registry that this study alone observes runs through."""
    from refarch import Registry

    return Registry()


def _work(planned: Plan, files: StudyFolder, registry: Any, quiet: bool, again: str) -> None:
    import contextlib
    import sys

    from refarch_compare.study.progress import Display
    from refarch_compare.study.work import Worker, refuse_launcher

    refuse_launcher()
    display = Display(not quiet, len(planned.cells))
    display.say(f"{len(planned.cells)} cells in {files.path}")
    for note in planned.notes:
        display.say(note)
    try:
        with display, contextlib.redirect_stdout(sys.stderr):  # standard output is the result's
            Worker(planned, files, registry, display).work()
    except KeyboardInterrupt:
        click.echo(f"\nto go on: {again}", err=True)
        raise


def _cells(planned: Plan, files: StudyFolder | None) -> dict[str, Any]:
    """The study's cells as plain data."""
    rows = []
    for cell in planned.cells:
        row: dict[str, Any] = cell.model_dump(mode="json", exclude={"pipeline"})
        row["options"] = dict(cell.pipeline.techniques[0].options)
        record = files.record(cell) if files else None
        if files:
            failure = files.failure(cell)
            row |= {"status": files.status(cell), "folder": str(files.run(cell))}
            row["error"] = failure.message if failure and record is None else None
        if record:
            row |= {"metric": record.metric, "score": record.score, "train_seconds": record.times.train}
            row["learning_rate"] = record.pipeline.training.learning_rate
        rows.append(row)
    return {"study": planned.study.name, "folder": str(files.path) if files else None, "notes": planned.notes} | {
        "cells": rows
    }


def _show_plan(planned: Plan) -> None:
    from refarch import terminal

    rows = []
    for cells in planned.groups().values():
        cell = cells[0]
        matched = {True: "yes", False: "no", None: "-"}[cell.matched]
        shown = (cell.size, cell.parameters, matched, cell.rate, len(cells))
        rows.append((cell.technique, cell.task, cell.backbone, *shown))
    head = ("technique", "task", "backbone", "size", "parameters", "on budget", "learning rate", "runs")
    terminal.table(head, rows)
    for note in planned.notes:
        click.echo(note)
    searches = len(rows) * planned.study.search.trials if planned.study.search else 0
    click.echo(f"{len(planned.cells)} runs" + (f" and {searches} trials of searches" if searches else ""))


def _show_results(planned: Plan, files: StudyFolder) -> None:
    import statistics

    from refarch import terminal

    rows = []
    for cells in planned.groups().values():
        records = [record for record in map(files.record, cells) if record]
        cell, scores = cells[0], [record.score for record in records]
        spread = statistics.stdev(scores) if len(scores) > 1 else None
        rate = records[0].pipeline.training.learning_rate if records else None
        mean = statistics.fmean(scores) if scores else None
        metric = records[0].metric if records else ""
        place = (cell.task, cell.backbone, cell.technique)
        rows.append((*place, cell.parameters, rate, metric, mean, spread, f"{len(scores)}/{len(cells)}"))
    head = ("task", "backbone", "technique", "parameters", "learning rate", "metric", "mean", "deviation", "runs")
    terminal.table(head, sorted(rows, key=lambda row: (str(row[0]), str(row[1]))))
    for note in planned.notes:
        click.echo(note)


def _report(planned: Plan, files: StudyFolder, registry: Any) -> Path | None:
    """Write the report; None where nothing has come to a result."""
    from refarch.files import write_text
    from refarch_compare.report.page import html
    from refarch_compare.report.report import make

    if not any(files.finished(cell) for cell in planned.cells):
        return None
    path = files.path / "report.html"
    write_text(path, html(make([files.path], registry, title=f"The study {planned.study.name}")))
    return path


def _complain(planned: Plan, files: StudyFolder) -> None:
    """Raises:
    RunError: cells have failed.
    """
    from refarch.errors import RunError

    failed = [(cell, files.failure(cell)) for cell in planned.cells if not files.finished(cell)]
    if failed:
        lines = "".join(f"\n  - {cell.id}: {failure.message if failure else '?'}" for cell, failure in failed[:5])
        more = f"\n  and {len(failed) - 5} more" if len(failed) > 5 else ""
        raise RunError(
            f"{len(failed)} of {len(planned.cells)} cells failed:{lines}{more}",
            f"each one's failure.json below {files.path} tells all; --retry runs them again",
        )
