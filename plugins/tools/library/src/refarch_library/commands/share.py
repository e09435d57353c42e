"""``refarch library push`` and ``pull``."""

from __future__ import annotations

from pathlib import Path

import click

from refarch_library.commands import options


@click.command("pull")
@click.argument("source")
@click.option("--name", help="What it is to be called here; its own name when left out.")
@options.replace
@options.library
@options.as_json
def pull(source: str, name: str | None, replace: bool, path: Path | None, as_json: bool) -> None:
    """Copy an entry from elsewhere into the library.

    SOURCE is a folder that holds an entry: hf://OWNER/NAME (with @REVISION and /FOLDER where needed), any URL that
    fsspec knows (s3://, gs://, https:// ...), or a path. Everything is checked before it becomes an entry, and nothing
    of it is executed.

    \b
    Examples:
      refarch library pull hf://me/polarity
      refarch library pull s3://bucket/modules/polarity --name polarity-2
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch_library import moving
    from refarch_library.commands.bars import copying
    from refarch_library.store import Library

    library = Library(path)
    with copying(source) as told:
        entry = moving.pull(library, source, name=name, replace=replace, progress=told)
    if as_json:
        click.echo(entry.to_json())
        return
    click.echo(f"pulled {entry.name} into {library.folder(entry)}; see: refarch library check {entry.name}")
    if not entry.licence:
        click.echo("it states no licence", err=True)


@click.command("push")
@click.argument("name")
@click.argument("target")
@click.option("--public", is_flag=True, help="Make a new hub repository visible to all; private when left out.")
@click.option("--message", default="", help="Of the commit to a hub repository.")
@options.replace
@options.library
def push(name: str, target: str, public: bool, message: str, replace: bool, path: Path | None) -> None:
    """Copy an entry to elsewhere: hf://OWNER/NAME, any URL that fsspec can write to, or a folder.

    A hub repository is made if need be, and gets all files in one commit. What the entry says goes along: the run's
    whole pipeline, with the paths of data and backbone as they were named; such paths are told before.

    \b
    Examples:
      refarch library push polarity hf://me/polarity --public
      refarch library push polarity /shared/modules/polarity
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch_library import adding, moving
    from refarch_library.store import Library

    library = Library(path)
    for where, value in adding.local_paths(library.get(name)).items():
        click.echo(f"note: the entry's {where} is a local path, which goes along: {value}", err=True)
    where = moving.push(library, name, target, replace=replace, private=not public, message=message)
    click.echo(f"pushed {name} to {where}")
