"""``refarch compare import``: results of others as records, marked as imported, with their provenance."""

from __future__ import annotations

from pathlib import Path

import click

IMPORTERS = {
    "peft-method-comparison": (
        "refarch_compare.evidence.peft_comparison:import_results",
        "result files of method_comparison in huggingface/peft",
    ),
}
"""Each source's importer, and what it reads."""


@click.command("import")
@click.argument("source")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Where records go.")
@click.option("--json", "as_json", is_flag=True, help="Print what was imported as JSON.")
def command(source: str, folder: Path, out: Path, as_json: bool) -> None:
    """Write the results of SOURCE in FOLDER as records of evidence.

    \b
    Sources:
      peft-method-comparison    result files of method_comparison in huggingface/peft

    Each record says that it is imported, from where, with which versions, and what is known of its limits. Methods that
    are techniques here are matched with their options; others are kept under their own names, without a structure.
    Importing again writes the same files.

    \b
    Examples:
      refarch compare import peft-method-comparison peft/method_comparison --out evidence/
      refarch compare evidence evidence/ --where "imported" --sort "score desc"
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch import terminal
    from refarch.errors import DataError, UnknownNameError, did_you_mean
    from refarch.plugins import resolve

    if source not in IMPORTERS:
        raise UnknownNameError(f"there is no importer {source!r}", did_you_mean(source, IMPORTERS))
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}", "give the folder that holds the result files")
    found = resolve(IMPORTERS[source][0])(folder, out)
    for problem in found.problems:
        click.echo(f"skipped {problem.path}: {problem.reason}", err=True)
    if as_json:
        records = [
            {"record": str(path), "label": row.name} for path, row in zip(found.written, found.rows, strict=True)
        ]
        problems = [vars(item) for item in found.problems]
        click.echo(terminal.as_json({"records": records, "notes": found.notes, "skipped": problems}))
        return
    matched = sum("/" not in row.technique for row in found.rows)
    click.echo(f"wrote {len(found.rows)} records below {out}; {matched} are techniques of refarch's")
    by_note: dict[str, list[str]] = {}
    for label, note in found.notes.items():
        by_note.setdefault(note, []).append(label)
    if by_note:
        terminal.table(("note", "records"), [(note, ", ".join(labels)) for note, labels in by_note.items()])
