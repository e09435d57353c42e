"""``refarch library list``, ``search`` and ``show``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from refarch_library.commands import options

if TYPE_CHECKING:
    from refarch_library.entry import Entry
    from refarch_library.searching import Query

HEAD = ("NAME", "TECHNIQUE", "BACKBONE", "TASK", "METRIC", "SCORE", "PARAMETERS", "LICENCE")


@click.command("list")
@options.library
@options.as_json
def list_(path: Path | None, as_json: bool) -> None:
    """List all entries, by task and score.

    Reads the entries' descriptions and no checkpoint, so that thousands take about a second. `refarch library search`
    takes conditions.
    """
    from refarch_library.searching import Query

    _print(path, Query(), as_json)


@click.command("search")
@click.argument("text", nargs=-1)
@click.option("--technique", metavar="PATTERN", help="Of one of its techniques: lora, '*tuning'.")
@click.option("--slot", metavar="PATTERN", help="Of one slot of its workspace: attention.query, 'ffn.*'.")
@click.option("--backbone", metavar="PATTERN", help="The backbone's name, family or model type.")
@click.option("--task", metavar="PATTERN", help="The task that it was trained on.")
@click.option("--licence", metavar="PATTERN", help="Its licence.")
@click.option("--score", metavar="CONDITION", help="'>=0.8' (or 0.8), '<2'.")
@options.library
@options.as_json
def search(text: tuple[str, ...], path: Path | None, as_json: bool, **conditions: str | None) -> None:
    """Find entries that fit all conditions, of each task the best first.

    TEXT is words that the name, description, technique, task or backbone must contain. Patterns know * and ?.

    \b
    Examples:
      refarch library search polarity
      refarch library search --technique lora --slot 'attention.*' --score '>=0.8' --json
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch_library.searching import Query

    _print(path, Query(text=" ".join(text), **conditions), as_json)


@click.command("show")
@click.argument("name")
@options.library
@options.as_json
def show(name: str, path: Path | None, as_json: bool) -> None:
    """Print what an entry says about itself; with --json all of it: specs, slot maps, shapes and the run's record.

    \b
    Examples:
      refarch library show polarity
      refarch library show polarity --json
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch import terminal
    from refarch.engine import read_description
    from refarch.files import below
    from refarch_library.store import Library

    library = Library(path)
    entry = library.get(name)
    folder = library.folder(entry)
    checkpoints = {part.name: read_description(below(folder, part.folder)) for part in entry.parts}
    if as_json:
        data = {**entry.model_dump(mode="json"), "folder": str(folder)}
        data["checkpoints"] = {name: found.model_dump(mode="json") for name, found in checkpoints.items()}
        click.echo(terminal.as_json(data))
        return
    for line in _lines(entry, folder, checkpoints):
        click.echo(terminal.printable(line))


def _print(path: Path | None, query: Query, as_json: bool) -> None:
    from refarch import terminal
    from refarch_library import searching
    from refarch_library.store import Library

    library = Library(path)
    entries, problems = library.entries()
    found = searching.search(entries, query)
    if as_json:
        rows = [{**_row(entry), "folder": str(library.folder(entry))} for entry in found]
        click.echo(terminal.as_json({"entries": rows, "problems": [item._asdict() for item in problems]}))
        return
    if found:
        terminal.table(HEAD, [_cells(entry) for entry in found], right=("SCORE", "PARAMETERS"), cell=terminal.printable)
    click.echo(f"{len(found):,} of {len(entries):,} entries in {library.path}")
    for problem in problems:
        click.echo(
            f"cannot read {terminal.printable(problem.name)}: {terminal.printable(problem.reason):.300}", err=True
        )


def _cells(entry: Entry) -> list[str]:
    record = entry.record
    texts = [entry.name, entry.label, entry.base.short, entry.task, record.metric, f"{record.score:.4f}"]
    return [*texts, f"{entry.parameters:,}", entry.licence or "-"]


def _row(entry: Entry) -> dict[str, Any]:
    record = entry.record
    return {
        "name": entry.name,
        "description": entry.description,
        "techniques": [part.technique for part in entry.parts],
        "workspace": list(dict.fromkeys(slot for part in entry.parts for slot in part.workspace)),
        "backbone": entry.base.name,
        "family": entry.base.family,
        "task": entry.task,
        "metric": record.metric,
        "score": record.score,
        "seed": record.seeds.run,
        "parameters": entry.parameters,
        "licence": entry.licence,
    }


def _lines(entry: Entry, folder: Path, checkpoints: dict[str, Any]) -> list[str]:
    record, base = entry.record, entry.base
    training = record.pipeline.training
    lines = [entry.name, *([f"  {entry.description}"] if entry.description else [])]
    facts = {
        "folder": str(folder),
        "licence": entry.licence or "not stated",
        "backbone": f"{base.name} (family {base.family}, {base.auto_class or 'auto class unknown'})",
        "fingerprint": f"{base.fingerprint.content} of {base.fingerprint.parameters:,} {base.fingerprint.dtype} values",
        "labels": ", ".join(base.labels.values()),
        "task": f"{entry.task} ({record.formulation})",
        "score": f"{record.metric} {record.score:.4f} on {record.pipeline.score_on}, seed {record.seeds.run}",
        "baselines": ", ".join(f"{name} {value:.4f}" for name, value in record.baselines.items()),
        "training": f"{record.steps:,} steps, learning rate {training.learning_rate:g}, batch {training.batch_size},"
        f" {record.times.train:.0f} s on {record.device}",
    }
    lines += [f"  {name:12}{value}" for name, value in facts.items() if value]
    for part in entry.parts:
        found = checkpoints[part.name]
        options = ", ".join(f"{key}={value}" for key, value in found.technique.options.items() if value is not None)
        lines += [
            f"  adaptation {part.name}: {part.technique} of {part.distribution or 'an inline spec'} {part.version}",
            f"    options     {options}",
            f"    slots       {', '.join(part.workspace)}, {part.insertions} insertions",
            f"    parameters  {part.parameters:,}" + (", its head included" if part.head else ""),
        ]
    return lines
