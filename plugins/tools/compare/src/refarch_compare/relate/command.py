"""``refarch compare relate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from refarch_compare.relate.relating import Relation

MOST = 15
"""How many of the things that cannot be separated are shown to people."""


@click.command("relate")
@click.argument("roots", nargs=-1, required=True, metavar="FOLDER...", type=click.Path(path_type=Path))
@click.option("--response", default="score", show_default=True, help="The figure to explain: a score, cost or measure.")
@click.option("--property", "only", multiple=True, metavar="NAME", help="Only this property; repeatable.")
@click.option("--where", metavar="SQL", help="Only rows for which this SQL condition holds.")
@click.option("--alpha", default=0.05, show_default=True, type=click.FloatRange(0, 1, min_open=True, max_open=True))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    roots: tuple[Path, ...], response: str, only: tuple[str, ...], where: str | None, alpha: float, as_json: bool
) -> None:
    """Say which structural properties go with a result, from the evidence below FOLDERs.

    Effects come from a mixed model in which backbone, task and configuration are groups, and trainable parameters and
    learning rate are held fixed; permutation importance is a check that assumes no straight lines. Properties that
    occur only together are named, not guessed apart. These are associations in the evidence at hand, not causes.

    \b
    Examples:
      refarch compare relate study/
      refarch compare relate study/ imported/ --response peak_memory_bytes --property insertion --property form
      refarch compare relate imported/ --where "task = 'MetaMathQA'"
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch import terminal
    from refarch_compare.evidence.query import select
    from refarch_compare.evidence.store import load

    evidence = load(roots)
    if evidence.problems:
        click.echo(evidence.note(), err=True)
    from refarch_compare.relate.relating import relate  # loads scipy

    found = relate(select(evidence.rows, where), response, only, alpha=alpha)
    if as_json:
        click.echo(terminal.as_json({**found.data(), "skipped": [vars(item) for item in evidence.problems]}))
    else:
        _print(found)


def _print(found: Relation) -> None:
    from refarch import terminal

    marked = f", {found.imported} of them imported" if found.imported else ""
    click.echo(
        f"{found.response} ({found.unit}): {found.rows} rows{marked}; {found.configurations} configurations of"
        f" {found.techniques} techniques; {found.model}"
    )
    if found.left_out:
        click.echo(f"left out: {found.left_out} rows without the figure, or whose technique is not installed")
    interval = f"{found.level:.0%} interval"
    rows = []
    for effect in found.effects:
        verdict = str(effect.verdict) + ("; see below" if effect.verdict == "cannot be separated" else "")
        size = f"x {effect.effect:.3g}" if found.ratio else f"{effect.effect:+.3g}"
        span = f"{effect.low:.3g} to {effect.high:.3g}"
        reference = f"rather than {effect.reference}" if effect.value else "all else equal"
        rows.append((effect.name, reference, size, span, f"{effect.corrected_p:.2g}", effect.configurations, verdict))
    terminal.table(("property", "", "effect", interval, "p (Holm)", "configurations", "what it shows"), rows)
    if found.confounds:
        click.echo("what this evidence cannot separate:")
        for confound in found.confounds[:MOST]:
            click.echo(f"  - {confound.words}")
        if len(found.confounds) > MOST:
            click.echo(f"  and {len(found.confounds) - MOST} more (--json lists all; --property NAME asks for fewer)")
    if found.constant:
        click.echo(
            "the same in all rows, so nothing can be said: " + ", ".join(f"{n} = {v}" for n, v in found.constant)
        )
    if found.importance is None:
        click.echo("permutation importance: too few configurations for it")
        return
    explained = found.importance.explained
    if explained <= 0:
        click.echo(
            f"permutation importance: a forest predicts unseen configurations no better than the mean ({explained:.2f})"
        )
        return
    best = [f"{name} {loss:.3f}" for name, (loss, spread) in found.importance.loss.items() if loss > spread][:6]
    click.echo(
        f"permutation importance: a forest explains {explained:.0%} of unseen configurations; most by"
        f" {', '.join(best) or 'no single property'}"
    )
