"""``refarch inspect``."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from refarch_inspect.looked import Looked


@click.command("inspect")
@click.argument("model", required=False)
@click.option("--model-type", metavar="TYPE", help="A model type of transformers, with its default configuration.")
@click.option("--propose", is_flag=True, help="Propose a table from structure even where a family is installed.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--svg", "drawing", type=click.Path(dir_okay=False, path_type=Path), help="Write the diagram as SVG.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Write the table: FILE.json or FILE.py.")
@click.option("--package", "folder", type=click.Path(path_type=Path), help="Write the table as a plugin package.")
@click.option("--check", is_flag=True, help="Run the conformance kit's backbone checks on the table.")
@click.pass_context
def command(
    context: click.Context,
    model: str | None,
    model_type: str | None,
    propose: bool,
    as_json: bool,
    drawing: Path | None,
    save: Path | None,
    folder: Path | None,
    check: bool,
) -> None:
    """Show the slots of a transformers MODEL: a model plugin, a folder, a hub id, a family or a model type.

    The model is built from its configuration alone: no weights are loaded, and code that comes with a model is not run.
    Where no installed family serves the model's type, a table is proposed from structure: one forward pass of a tiny
    random copy shows which module feeds which. Each entry says how sure it is, and why; what is not resolved is listed.

    Use a proposal inline, or as a plugin (a pipeline has no field for a table: it finds families
    among the installed plugins, by the model's type):

    \b
      refarch inspect gptj --save gptj.json
      family = FamilySpec.from_json(Path("gptj.json").read_text())
      refarch.attach(model, "lora", family=family)

    \b
    Examples:
      refarch inspect --model-type bert
      refarch inspect ./my-model --svg layer.svg
      refarch inspect gptj --check --package refarch-gptj
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch.errors import UsageError
    from refarch.files import write_text
    from refarch.plugins import default_registry
    from refarch_inspect import diagram, svg, write
    from refarch_inspect.names import meant

    if (model is None) == (model_type is None):
        raise UsageError("name one model: MODEL, or --model-type TYPE", "refarch inspect --help")
    if save is not None and save.suffix not in (".json", ".py"):
        raise UsageError(f"--save {save}: the table is written as .json or as .py")
    if folder is not None:
        write.require_room(folder)
    registry = default_registry()
    if model is not None:
        meant(model, registry)
    from refarch_inspect import source  # loads torch
    from refarch_inspect.slots import look

    logging.getLogger("transformers").setLevel(logging.ERROR)
    looked = look(source.find_config(model, model_type, registry), registry, propose)
    findings = looked.proposal.findings if looked.proposed and looked.proposal else []
    failed = _check(looked) if check else []
    if as_json:
        click.echo(json.dumps({**looked.data(), **({"failed_checks": failed} if check else {})}, indent=2))
    else:
        _print(looked)
        click.echo(f"\n{diagram.text(looked)}")
        if looked.proposed:
            click.echo(f"\n{write.python_source(looked.family, findings)}")
        if check:
            click.echo("\n".join(failed) if failed else "the conformance kit's backbone checks pass on this table")
    if drawing:
        write_text(drawing, svg.svg(looked))
    if save:
        text = (
            looked.family.to_json() + "\n" if save.suffix == ".json" else write.python_source(looked.family, findings)
        )
        write_text(save, text)
    if folder:
        write.package(looked.family, findings, folder)
    for path in (drawing, save, folder):
        if path:
            click.echo(f"wrote {path}", err=True)
    context.exit(1 if failed else 0)


def _check(looked: Looked) -> list[str]:
    """What fails on the table's tiny model, one line each."""
    from refarch.testing import run_backbone_checks

    left = tuple(item.rpartition(" ")[0] for stack in looked.stacks for item in stack.uncovered)
    report = run_backbone_checks(looked.family, uncovered=left)
    print(f"{sum(r.outcome == 'passed' for r in report.results)} checks passed", file=sys.stderr)
    return [f"FAILED {item.check} on {item.model}: {item.message}" for item in report.failures()]


def _print(looked: Looked) -> None:
    depth = ", ".join(f"{stack.count} {stack.name} layers" for stack in looked.stacks)
    table = "a proposed table" if looked.proposed else f"the table of family {looked.family.name!r}"
    click.echo(f"{looked.model} ({looked.model_type}): {depth}; {table}")
    for note in looked.notes:
        click.echo(f"note: {note}")
    click.echo()
    rows: list[tuple[str, ...]] = [("STACK", "SLOT", "MODULE", "CLASS", "SHAPE", "LAYERS")]
    for row in looked.rows:
        layers = str(row.layers) if row.layers else ""
        rows.append((row.stack or "-", row.slot, row.entry or "-", row.module or row.reason, row.shape, layers))
    _columns(rows)
    for stack in looked.stacks:
        left = ", ".join(stack.uncovered) or "none"
        click.echo(f"\nlinear modules and norms of a layer that no slot names ({stack.name}): {left}")
    if looked.proposed and looked.proposal:
        click.echo()
        _columns(
            [("STACK", "SLOT", "PROPOSED", "CONFIDENCE", "WHY")]
            + [
                (f.stack or "-", f.slot, f.entry or "unresolved", f.confidence, f.reason)
                for f in looked.proposal.findings
            ]
        )


def _columns(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [min(44, max(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
