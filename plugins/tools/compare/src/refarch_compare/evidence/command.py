"""``refarch compare evidence``: what there is, filtered, sorted and queried."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from refarch_compare.evidence.row import Row

SHOWN = ("label", "backbone", "problem", "seed", "metric", "score", "trainable_parameters", "train_seconds", "origin")
"""The columns of the table for people, unless others are asked for."""


@click.command("evidence")
@click.argument("roots", nargs=-1, required=True, metavar="FOLDER...", type=click.Path(path_type=Path))
@click.option("--where", metavar="SQL", help="Only rows for which this SQL condition holds.")
@click.option("--sort", metavar="COLUMNS", help="Columns to order by, such as 'score desc, technique'.")
@click.option("--columns", metavar="NAMES", help="The columns to show, comma-separated; 'all' for all.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many rows.")
@click.option("--sql", metavar="QUERY", help="A whole query on the table 'evidence' instead.")
@click.option("--json", "as_json", is_flag=True, help="Print rows, with all they hold, and skipped files as JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the table as CSV.")
def command(
    roots: tuple[Path, ...],
    where: str | None,
    sort: str | None,
    columns: str | None,
    limit: int | None,
    sql: str | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """List the evidence below FOLDERs: runs, studies and imported records, at any depth.

    Columns are a row's fields (technique, label, backbone, family, task, metric, score, seed, trainable_parameters,
    saved_bytes, peak_memory_bytes, train_seconds, learning_rate, origin, imported ...), the problem (the task with
    options that are not its defaults), the technique's options (option_rank), and measures by their names. Files that
    cannot be read are skipped, named and counted.

    \b
    Examples:
      refarch compare evidence runs/ study/ --where "technique = 'lora' and score > 0.8" --sort "score desc"
      refarch compare evidence imported/ --columns label,score,forgetting,peak_memory_bytes --csv
      refarch compare evidence runs/ --sql "select technique, count(*), avg(score) from evidence group by all"
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch import terminal
    from refarch.errors import UsageError
    from refarch_compare.evidence.query import ask, select
    from refarch_compare.evidence.store import load

    if sql and (where or sort or columns):
        raise UsageError("--sql is a whole query; --where, --sort and --columns are parts of one", "put them into it")
    if as_json and as_csv:
        raise UsageError("choose one of --json and --csv")
    evidence = load(roots)
    if evidence.problems and not as_json:
        click.echo(evidence.note(), err=True)
    if sql:
        head, answer = ask(evidence.rows, sql)
        found = [list(row) for row in answer[:limit]]
        data = [dict(zip(head, row, strict=True)) for row in found]
    else:
        rows = select(evidence.rows, where, sort)
        head, found = _columns(rows[:limit], columns, evidence.rows, everything=as_csv)
        data = [row.model_dump(mode="json") for row in rows[:limit]]
    if as_json:
        problems = [vars(item) for item in evidence.problems]
        click.echo(terminal.as_json({"rows": data, "skipped": problems}))
    elif as_csv:
        click.echo(terminal.as_csv(head, found), nl=False)
    else:
        terminal.table(head, found)
        if not sql:
            click.echo(f"{len(rows):,} of {len(evidence.rows):,} rows" + (f", {len(found):,} shown" if limit else ""))


def _columns(
    rows: Sequence[Row], names: str | None, known: Sequence[Row], everything: bool
) -> tuple[list[str], list[list[Any]]]:
    """Column names and the rows' values at them."""
    from refarch.errors import UnknownNameError, did_you_mean
    from refarch_compare.evidence.query import flat

    values = [flat(row) for row in rows]
    every = list(dict.fromkeys(name for row in known for name in flat(row)))
    chosen = every if names == "all" or (everything and names is None) else list(SHOWN)
    if names and names != "all":
        chosen = [name.strip() for name in names.split(",")]
        for name in chosen:
            if name not in every:
                raise UnknownNameError(f"evidence has no column {name!r}", did_you_mean(name, every))
    return chosen, [[row.get(name) for name in chosen] for row in values]
