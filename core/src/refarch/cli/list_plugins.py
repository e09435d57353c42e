"""``refarch list-plugins``: a table made of metadata. Imports click and the scanner, nothing else."""

from __future__ import annotations

from collections import Counter

import click

from refarch.plugins.discovery import GROUPS, Found, Settings, scan

HEAD = ("NAME", "KIND", "VERSION", "STATUS", "SUMMARY")
USABLE = ("ok", "blocked", "older contract")


@click.command("list-plugins")
@click.option("--kind", type=click.Choice(list(GROUPS)), help="Only plugins of this kind.")
@click.option("--check", is_flag=True, help="Load every plugin (this runs its code) and say which do not work.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, kind: str | None, check: bool, as_json: bool) -> None:
    """List the installed plugins: name, kind, version, status and summary.

    Reads the metadata of installed distributions and loads none of them, unless --check is given. STATUS is ok;
    CONFLICT where two plugins have one name; blocked by REFARCH_PLUGINS or REFARCH_BLOCK; and with --check also error,
    older contract or newer contract. Exits with 1 if --check (or REFARCH_STRICT=1) finds a plugin that cannot be used.

    \b
    Examples:
      refarch list-plugins --kind technique
      refarch list-plugins --check
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    settings = Settings.from_environment()
    rows = _checked(settings) if check else scan(settings)
    rows = [item for item in map(_shadowed, rows) if kind in (None, item.kind)]
    if as_json:
        import json

        click.echo(json.dumps([item._asdict() for item in rows], indent=2))
    else:
        _print(rows)
    bad = [item for item in rows if item.status not in USABLE]
    if bad and (check or settings.strict):
        counts = ", ".join(f"{count} {status}" for status, count in Counter(item.status for item in bad).items())
        click.echo(f"{len(bad)} of {len(rows)} plugins cannot be used: {counts}", err=True)
        context.exit(1)


def _checked(settings: Settings) -> list[Found]:
    from refarch.plugins.registry import Registry

    return Registry(settings._replace(strict=False)).check()  # strict mode would stop at the first problem


def _shadowed(item: Found) -> Found:
    from refarch.cli.app import CORE

    if item.kind == "command" and item.status == "ok" and item.name in CORE:
        return item._replace(status="CONFLICT", problem="refarch itself has a command of this name")
    return item


def _print(rows: list[Found]) -> None:
    if not rows:
        click.echo("no plugins are installed; their distributions are called refarch-<name>")
        return
    cells = [HEAD, *((item.name, item.kind, item.version, item.status, item.summary) for item in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEAD))]
    for row, item in zip(cells, (None, *rows), strict=True):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if item and item.problem:
            first, *rest = item.problem.splitlines()
            click.echo("\n".join([f"    {item.distribution}: {first}", *(f"    {line}" for line in rest)]))
