"""``refarch schema``: JSON Schema of the specs, and of the options of one technique or task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

SPECS = {
    "technique": "TechniqueSpec",
    "module": "ModuleSpec",
    "backbone": "FamilySpec",
    "model": "ModelSpec",
    "task": "TaskSpec",
    "pipeline": "PipelineSpec",
    "record": "RunRecord",
}


@click.command("schema")
@click.argument("name")
@click.option("--kind", type=click.Choice(["technique", "task"]), help="Where a technique and a task have one name.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead.")
def command(name: str, kind: str | None, out: Path | None) -> None:
    """Print the JSON Schema of a spec, or of the options of an installed technique or task.

    NAME is technique, module, backbone, model, task, pipeline or record, or the name of a plugin.

    \b
    Examples:
      refarch schema pipeline --out pipeline.schema.json
      refarch schema TECHNIQUE
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    import json

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_schema(name, kind)}
    text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    if out is None:
        click.echo(text, nl=False)
        return
    from refarch.files import write_text

    write_text(out, text)
    click.echo(f"wrote {out}", err=True)


def _schema(name: str, kind: str | None) -> dict[str, Any]:
    import refarch.architecture
    from refarch.errors import UnknownNameError, UsageError, did_you_mean
    from refarch.plugins.registry import default_registry

    if kind is None and name in SPECS:
        spec = getattr(refarch.architecture, SPECS[name])
        return dict(spec.model_json_schema())
    registry = default_registry()
    kinds = {item.kind for item in registry.found if item.name == name}
    having = [option for option in ("technique", "task") if option in kinds and kind in (None, option)]
    if len(having) > 1:
        raise UsageError(f"{name!r} is a technique and a task", "say which with --kind technique or --kind task")
    if having:
        return (registry.technique(name) if having == ["technique"] else registry.task(name)).options_schema()
    if kinds and kind is None:
        raise UsageError(f"{name!r} is a {', '.join(sorted(kinds))}; only techniques and tasks have options")
    known = [*registry.names("technique"), *registry.names("task"), *SPECS]
    raise UnknownNameError(f"there is no spec, technique or task named {name!r}", did_you_mean(name, known))
