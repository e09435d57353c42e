"""``refarch library compose``: entries combined by an expression, judged before anything is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from refarch_library.commands import options

if TYPE_CHECKING:
    from refarch import Judgement
    from refarch_library.finding import Found


@click.command("compose")
@click.argument("expression")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The folder to write; nothing without.")
@click.option("--backbone", metavar="NAME", help="The backbone, where it lies elsewhere than the entries say.")
@options.library
@options.as_json
def command(expression: str, out: Path | None, backbone: str | None, path: Path | None, as_json: bool) -> None:
    """Combine entries of one backbone by an expression of their names.

    It is judged first: exact, approximate with the measured error, or impossible, with the slot and the property in
    conflict. With --out, what is possible is made and saved: an ordinary adaptation where the operators are computed
    once (average, linear, ties, dare, svd, concat), for refarch.load; else a composition, for refarch.load_composition.

    Operators that run in each forward pass: stack, sum, route, fuse, split. They nest.

    \b
    Examples:
      refarch library compose "stack(polarity, sum(style: 0.5))"
      refarch library compose "ties(law, news, density=0.2, rank=16)" --out merged/
      refarch library compose "route(law, news, gate=arrow)" --out routed/ --json
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch.architecture import WEIGHT, parts, read_expression
    from refarch.plugins import default_registry
    from refarch_library.base import load_base
    from refarch_library.finding import find, place, require_backbone
    from refarch_library.store import Library

    wanted, registry, library = read_expression(expression), default_registry(), Library(path)
    for name in parts(wanted):
        place(name, library)
    require_backbone(backbone, registry)
    from refarch import combine, compose, judge  # load torch

    found = {name: find(name, library) for name in parts(wanted)}
    given = {name: _folder(each) for name, each in found.items()}
    model, _ = load_base(next(iter(found.values())).entry, registry, backbone=backbone, device="cpu")
    judged = judge(wanted, given, model=model, registry=registry)
    if out is not None:
        make = combine if isinstance(wanted, WEIGHT) else compose
        make(model, wanted, given, trainable=False, registry=registry).save(out)
    if as_json:
        click.echo(json.dumps({**judged.model_dump(mode="json"), "verdict": judged.verdict, "out": out and str(out)}))
    else:
        _show(judged, out)


def _folder(found: Found) -> Path:
    """The folder of an entry's one adaptation.

    Raises:
        UsageError: it has several.
    """
    from refarch.errors import UsageError
    from refarch.files import below

    if len(found.entry.parts) > 1:
        raise UsageError(
            f"entry {found.entry.name!r} has {len(found.entry.parts)} adaptations, and a name in an expression is one",
            "compose them in Python, with refarch.compose and Library.load",
        )
    return below(found.folder, found.entry.parts[0].folder)


def _show(judged: Judgement, out: Path | None) -> None:
    click.echo(str(judged))
    hints = dict.fromkeys(finding.hint for finding in judged.findings if finding.hint)
    for hint in hints:
        click.echo(f"  hint: {hint}")
    if out is not None:
        click.echo(f"wrote {out}")
