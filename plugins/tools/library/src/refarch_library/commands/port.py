"""``refarch library port``: an entry on another backbone."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from refarch_library.commands import options

if TYPE_CHECKING:
    from refarch_library.transfer.study import Ported, Row


@click.command("port")
@click.argument("entry")
@click.option("--to", required=True, metavar="BACKBONE", help="An installed model, a folder or a hub id.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder; made from both names if left out."
)
@click.option("--layers", metavar="JSON", help='At which layers it works there: [0, 2] or {"last": 2}.')
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Seeds 0 to N - 1.")
@click.option("--only", is_flag=True, help="Port, and compute no score.")
@click.option("--train", is_flag=True, help="Also train from each start, with the run's own settings.")
@click.option("--steps", type=click.IntRange(1), help="Train so many steps.")
@options.library
@options.as_json
def command(
    entry: str,
    to: str,
    out: Path | None,
    layers: str | None,
    seeds: int,
    only: bool,
    train: bool,
    steps: int | None,
    path: Path | None,
    as_json: bool,
) -> None:
    """Move an entry's modules to another backbone of compatible slots.

    ENTRY is an entry's name, or the folder of an entry or a run. Each tensor goes to the same slot; where the numbers
    of layers differ, layers are matched by depth, the first to the first and the last to the last. Where widths differ
    it is refused, with the differences. A head goes along where it has the same form.

    The score on the run's task is given for the module as it is, and with --train as a starting point, beside its
    baselines: parameters sampled from the module's own distribution (a normal one of each tensor's mean and deviation),
    its head alone, and none of it (scratch). Baselines belong to every porting result.

    \b
    Examples:
      refarch library port polarity --to ./smaller-model
      refarch library port polarity --to ./smaller-model --train --seeds 3
      refarch library port polarity --to ./smaller-model --layers '{"last": 1}' --only --json
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch import terminal
    from refarch.errors import UsageError
    from refarch.plugins import default_registry
    from refarch_library.finding import find, place, require_backbone
    from refarch_library.store import Library

    try:
        where = json.loads(layers) if layers else None
    except ValueError:
        raise UsageError(f"--layers {layers!r} is no JSON", """write [0, 2] or '{"last": 2}'""") from None
    library, registry = Library(path), default_registry()
    place(entry, library)
    require_backbone(to, registry)
    from refarch_library.commands.bars import counting
    from refarch_library.transfer import study  # loads torch

    found = find(entry, library)
    out = out or Path("ported") / f"{found.entry.name}-to-{Path(to).name}"
    training: dict[str, Any] = {"max_steps": steps} if steps else {}
    rows: list[Row] = []
    if only:
        ported = study.port_entry(found, to, out, registry, layers=where)
    else:
        with counting(f"porting to {Path(to).name}", seeds * len(study.STARTS)) as told:
            ported, rows = study.compare(
                found,
                to,
                out,
                registry,
                seeds=range(seeds),
                train=train or steps is not None,
                layers=where,
                told=told,
                **training,
            )
    if as_json:
        click.echo(terminal.as_json(_data(found.entry, to, out, ported, rows)))
        return
    _print(found.entry, out, ported, rows)


def _data(entry: Any, to: str, out: Path, ported: Ported, rows: list[Row]) -> dict[str, Any]:
    return {
        "entry": entry.name,
        "from": entry.base.name,
        "to": to,
        "metric": entry.record.metric,
        "score_there": entry.record.score,
        "folders": [str(folder) for folder in ported.folders["ported"]],
        "layers": [match.layers for match in ported.matches],
        "new": [match.new for match in ported.matches],
        "tensors": [len(match.tensors) for match in ported.matches],
        "starts": [row.plain() for row in rows],
        "out": str(out),
    }


def _print(entry: Any, out: Path, ported: Ported, rows: list[Row]) -> None:
    from refarch import terminal

    for folder, match in zip(ported.folders["ported"], ported.matches, strict=True):
        click.echo(f"{folder.name}: {len(match.tensors)} tensors ported to {folder}")
        for stack, layers in match.layers.items():
            click.echo(f"  {stack} layers: " + ", ".join(f"{own} from {there}" for own, there in layers.items()))
        if match.new:
            click.echo(f"  not ported, because it has another form there: {', '.join(match.new)}")
    if rows:
        metric = entry.record.metric
        head = ("START", f"{metric} ZERO-SHOT", f"{metric} AFTER TRAINING", "")
        terminal.table(
            head,
            [[row.start, _mean(row.zero_shot), _mean(row.trained), row.error] for row in rows],
            cell=terminal.printable,
        )
        click.echo(f"on its own backbone: {entry.record.score:.4f}; everything is in {out}")


def _mean(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"
