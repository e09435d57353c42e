"""``refarch library add``, ``check`` and ``remove``."""

from __future__ import annotations

from pathlib import Path

import click

from refarch_library.commands import options


@click.command("add")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--name", help="The entry's name; made from technique, task, backbone and seed when left out.")
@click.option(
    "--licence", default="", metavar="SPDX", help="Of the modules, such as Apache-2.0; written into the card."
)
@click.option("--description", default="", help="A sentence for people.")
@options.replace
@options.library
@options.as_json
def add(
    run: Path, name: str | None, licence: str, description: str, replace: bool, path: Path | None, as_json: bool
) -> None:
    """Add what a finished run has trained, with its evidence.

    RUN is the run's folder. Its adaptations are read and checked, copied, and described by entry.json and by a model
    card (README.md). The run's folder is not needed afterwards.

    \b
    Examples:
      refarch library add runs/first --licence Apache-2.0
      refarch library add runs/first --name polarity --description "Polarity of words"
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch_library import adding
    from refarch_library.store import Library

    library = Library(path)
    entry = adding.add(library, run, name=name, licence=licence, description=description, replace=replace)
    if as_json:
        click.echo(entry.to_json())
        return
    click.echo(f"added {entry.name}: {entry.parameters:,} parameters, {entry.record.metric} {entry.record.score:.4f}")
    click.echo(f"it is in {library.folder(entry)}")
    if not licence:
        click.echo("no licence is stated; give one with --licence --replace before sharing it", err=True)


@click.command("check")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--load", is_flag=True, help="Also load the backbone and put the adaptations on it.")
@options.library
@options.as_json
@click.pass_context
def check(context: click.Context, names: tuple[str, ...], load: bool, path: Path | None, as_json: bool) -> None:
    """Check entries: all of them, or those that are named.

    Files against their digests, what the entry says against what its checkpoints hold, formats, and whether the plugins
    are installed; versions that differ are told. With --load also the base's fingerprint, slots and shapes. Exits with
    1 if there is a problem.

    \b
    Examples:
      refarch library check
      refarch library check polarity --load
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch import terminal
    from refarch_library import checking
    from refarch_library.store import Library

    library = Library(path)
    found = {}
    for name in names:
        library.require(name)
    for name in names or library.names():
        found[name] = checking.check(library, name)
        if load and not any(finding.level == "problem" for finding in found[name]):
            found[name].append(checking.check_loading(library, name))
    if as_json:
        click.echo(terminal.as_json({name: [item._asdict() for item in items] for name, items in found.items()}))
    else:
        for name, items in found.items():
            click.echo(terminal.printable(name))
            for item in items:
                click.echo(f"  {item.level:8}{terminal.printable(item.text)}")
        if not found:
            click.echo(f"the library {library.path} has no entries")
    if any(item.level == "problem" for items in found.values() for item in items):
        context.exit(1)


@click.command("remove")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.library
def remove(names: tuple[str, ...], yes: bool, path: Path | None) -> None:
    """Delete entries with their files.

    \b
    Examples:
      refarch library remove polarity --yes
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch_library.store import Library

    library = Library(path)
    for name in names:
        library.require(name)
    if not yes:
        click.confirm(f"delete {', '.join(names)} from {library.path}?", abort=True)
    for name in names:
        library.remove(name)
        click.echo(f"removed {name}")
