"""``refarch compare schema``: JSON Schema of a study."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("schema")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead.")
def command(out: Path | None) -> None:
    """Print the JSON Schema of a study's file, for editors and for reading.

    \b
    Examples:
      refarch compare schema
      refarch compare schema --out study.schema.json
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    import json

    from refarch.files import write_text
    from refarch_compare.study.spec import StudySpec

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **StudySpec.model_json_schema()}
    text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    if out is None:
        click.echo(text, nl=False)
        return
    write_text(out, text)
    click.echo(f"wrote {out}", err=True)
