"""``refarch advise``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from refarch_compare.advise.advice import Advice

UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def amount(text: str) -> int:
    """A count or size: ``500000``, ``0.5M``, ``24GB``, ``16GiB``.

    Raises:
        UsageError: it is neither.
    """
    from refarch.errors import UsageError

    found = re.fullmatch(r"\s*(\d[\d_,]*(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if not found or found[2].lower() not in UNITS:
        raise UsageError(f"{text!r} is no amount", "write 500000, 0.5M, 24GB or 16GiB")
    return int(float(found[1].replace(",", "").replace("_", "")) * UNITS[found[2].lower()])


@click.command("advise")
@click.option("--task", required=True, help="The task, as in records and in refarch list-plugins.")
@click.option("--backbone", required=True, help="An installed model, a folder or a hub id that can be reached.")
@click.option(
    "--evidence", "roots", multiple=True, metavar="FOLDER", type=click.Path(path_type=Path), help="Runs; repeatable."
)
@click.option("--recorded-as", metavar="NAME", help="The backbone's name in records, where that is another.")
@click.option("--max-trainable", metavar="N", help="At most so many parameters, with the head: 500000 or 0.5M.")
@click.option("--no-inference-overhead", is_flag=True, help="Only techniques that merge exactly into the base.")
@click.option("--memory", metavar="SIZE", help="Memory for training: 24GB or 16GiB.")
@click.option("--alpha", default=0.05, show_default=True, type=click.FloatRange(0, 1, min_open=True, max_open=True))
@click.option("--top", default=8, show_default=True, type=click.IntRange(min=1), help="How many to show in full.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    task: str,
    backbone: str,
    roots: tuple[Path, ...],
    recorded_as: str | None,
    max_trainable: str | None,
    no_inference_overhead: bool,
    memory: str | None,
    alpha: float,
    top: int,
    as_json: bool,
) -> None:
    """Say which techniques suit a task and a backbone within limits, and why.

    Structure decides what is possible: trainable parameters are counted and merging is asked of the modules themselves,
    built without weights; a technique over the budget is made smaller. Evidence decides the order, as far as it goes:
    places are given only where differences are above the noise, and nothing is ranked otherwise. Results of others are
    marked as imported and never ranked against runs. What would be worth measuring next is listed with its command.

    \b
    Examples:
      refarch advise --task lexicon-polarity --backbone minilm --evidence runs/ --max-trainable 100K
      refarch advise --task T --backbone ./model --evidence study/ --no-inference-overhead --memory 8GB --json
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch_inspect.names import meant

    from refarch import terminal
    from refarch.plugins import default_registry
    from refarch_compare.advise.candidates import Limits
    from refarch_compare.evidence.store import Evidence, load

    registry = default_registry()
    meant(backbone, registry)
    limits = Limits(
        trainable=amount(max_trainable) if max_trainable else None,
        no_inference_overhead=no_inference_overhead,
        memory_bytes=amount(memory) if memory else None,
    )
    evidence = load(roots) if roots else Evidence(())
    if evidence.problems and not as_json:
        click.echo(evidence.note(), err=True)
    from refarch_compare.advise.advice import advise  # loads scipy

    found = advise(task, backbone, evidence.rows, limits, registry, recorded_as=recorded_as, alpha=alpha)
    if as_json:
        click.echo(terminal.as_json({**found.data(), "skipped": [vars(item) for item in evidence.problems]}))
    else:
        _print(found, top)


def _print(found: Advice, top: int) -> None:
    click.echo(f"{found.task} on {found.backbone}; limits: {found.limits.words()}")
    click.echo(found.verdict)
    for note in found.notes:
        click.echo(f"note: {note}")
    if not found.ranked:
        click.echo("below: those with records here first, then by trainable parameters; that is no ranking")
    for item in found.items[:top]:
        place = f"place {item.tier}" if item.tier is not None else "not ranked"
        settings = item.candidate.settings
        click.echo(f"\n{item.candidate.name}{f' ({settings})' if settings else ''}: {place}")
        for reason in item.reasons:
            click.echo(f"  - {reason}")
    if rest := [item.candidate.name for item in found.items[top:]]:
        click.echo(f"\n{len(rest)} more within the limits (--top shows more of them): {', '.join(rest)}")
    if found.left_out:
        click.echo("\nleft out:")
        for name, why in found.left_out.items():
            click.echo(f"  - {name}: {why}")
    if found.next:
        click.echo("\nworth measuring next:")
        for gap in found.next:
            click.echo(f"  - {gap.name}, {gap.seeds} more {'seed' if gap.seeds == 1 else 'seeds'}: {gap.why}")
            if gap.command:
                click.echo(f"    {gap.command}")
