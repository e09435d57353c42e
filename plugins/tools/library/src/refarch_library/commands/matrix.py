"""``refarch library transfer-matrix``: each entry on each task."""

from __future__ import annotations

from pathlib import Path

import click

from refarch_library.commands import options


@click.command("transfer-matrix")
@click.argument("entries", nargs=-1, metavar="[ENTRY|FOLDER]...")
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="A further task, with its defaults; repeatable.")
@click.option("--any-labels", is_flag=True, help="Also score where labels have other names, if they are as many.")
@click.option("--limit", type=click.IntRange(1), help="At most so many test rows a task.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw it into this file.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it as JSON into this file.")
@options.library
@options.as_json
def command(
    entries: tuple[str, ...],
    tasks: tuple[str, ...],
    any_labels: bool,
    limit: int | None,
    svg: Path | None,
    out: Path | None,
    path: Path | None,
    as_json: bool,
) -> None:
    """Score each entry on the test split of each entry's task: what a module knows of tasks that it was not trained on.

    All entries of the library when none is named. An entry is put to a task whose labels are those of its head, without
    training anything; a cell that cannot be is empty, and --json says why. The frame in the picture is its own task.

    \b
    Examples:
      refarch library transfer-matrix --svg transfer.svg
      refarch library transfer-matrix polarity runs/other --task lexicon-polarity --limit 200 --json
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch import terminal
    from refarch.files import write_text
    from refarch.plugins import default_registry
    from refarch_library.finding import find, place, require_some
    from refarch_library.store import Library

    library, registry = Library(path), default_registry()
    chosen = entries or library.names()
    require_some(chosen)
    for name in entries:
        place(name, library)
    for task in tasks:
        registry.task(task)
    from refarch_library.commands.bars import counting
    from refarch_library.transfer.matrix import transfer_matrix  # loads torch
    from refarch_library.transfer.picture import draw

    found = [find(name, library) for name in chosen]
    with counting("scoring", len(found) * (len(found) + len(tasks))) as told:
        matrix = transfer_matrix(found, registry, tasks=tasks, any_labels=any_labels, limit=limit, told=told)
    text = terminal.as_json(matrix.plain())
    if out:
        write_text(out, text + "\n")
    if svg:
        write_text(svg, draw(matrix))
    if as_json:
        click.echo(text)
        return
    rows = [
        [name, *(_said(score, own) for score, own in zip(scores, owns, strict=True))]
        for name, scores, owns in zip(matrix.entries, matrix.scores, matrix.own, strict=True)
    ]
    heads = [f"{task} ({metric})" for task, metric in zip(matrix.tasks, matrix.metrics, strict=True)]
    terminal.table(("ENTRY", *heads), rows, cell=terminal.printable)
    click.echo("* the task that it was trained on; - it cannot be put to that task (--json says why)")


def _said(score: float | None, own: bool) -> str:
    return "-" if score is None else f"{score:.4f}" + (" *" if own else "")
