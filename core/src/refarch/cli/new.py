"""``refarch new``: write a plugin as a whole package, from the templates in ``refarch/templates``."""

from __future__ import annotations

import builtins
import json
import keyword
import os
import re
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import click

from refarch.plugins.discovery import GROUPS, scan

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 50
SUMMARY = 120
"""What a spec allows for its summary."""
TAKEN = {
    "Data",
    "Function",
    "LowRank",
    "ModuleSpec",
    "Option",
    "SlotShape",
    "Task",
    "TaskSpec",
    "TechniqueSpec",
    "Tensor",
}
"""Names that the templates import, so that no class is called so."""
EXAMPLES = ("low-rank", "rescaling")
DEPENDENCIES = {"command": ["refarch", "click>=8.1"]}


@click.command("new")
@click.argument("kind", type=click.Choice(list(GROUPS)))
@click.argument("name")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The package's folder, which must not exist; refarch-NAME otherwise."
)
@click.option("--author", metavar="TEXT", help='The author: "Name", or "Name <address>".')
@click.option("--licence", "--license", metavar="SPDX", default="Apache-2.0", show_default=True, help="Its identifier.")
@click.option("--summary", metavar="TEXT", help="One line that says what it is.")
@click.option(
    "--example", type=click.Choice(EXAMPLES), help=f"What a technique starts from; {EXAMPLES[0]} when left out."
)
@click.option("--model-type", metavar="TYPE", help="The transformers model type that a backbone's table is for.")
@click.option("--table", type=click.Path(path_type=Path), help="A backbone's table as JSON, in place of --model-type.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(
    kind: str,
    name: str,
    out: Path | None,
    author: str | None,
    licence: str,
    summary: str | None,
    example: str | None,
    model_type: str | None,
    table: Path | None,
    as_json: bool,
) -> None:
    """Write a new plugin of a KIND under a NAME: a package that installs, is listed, and passes its own tests.

    It holds the spec, the code, a README and tests on the conformance kit; what to change is marked EDIT. Names have
    lower-case letters, digits and hyphens. Nothing that exists is ever overwritten.

    \b
    Examples:
      refarch new technique my-technique
      refarch new technique my-technique --example rescaling --author "Ada Lovelace <ada@example.org>"
      refarch new backbone my-family --model-type MODEL_TYPE
      refarch new task my-task --out somewhere/my-task
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    _check(kind, name, example, model_type, table)
    folder = out or Path(f"refarch-{name}")
    if os.path.lexists(folder):
        raise click.UsageError(f"{folder} exists already, and is left as it is; choose another folder with --out")
    warnings = _warnings(kind, name)
    values = {
        "kind": kind,
        "name": name,
        "short": name.replace("-", "_"),
        "module": f"refarch_{name.replace('-', '_')}",
        "distribution": f"refarch-{name}",
        "class_name": class_name(name),
        "dependencies": ", ".join(f'"{text}"' for text in DEPENDENCIES.get(kind, ["refarch"])),
        **_described(kind, name, summary, licence, author),
    }
    if kind == "backbone":
        from refarch.cli.family_source import draft, source

        spec, notes = draft(name, values["summary"], model_type, table)
        values |= {"spec": source(spec), "model_type": spec.tiny.model_type}
        warnings += notes
    folders = ["common", kind, *([example or EXAMPLES[0]] if kind == "technique" else [])]
    files = render(folders, values)
    _write(folder, files)
    steps = [f"pip install -e '{folder}[test]'", f"pytest {folder}"]
    if kind in ("technique", "backbone", "task"):
        steps.insert(1, f"refarch check {name}")
    if as_json:
        keys = ("kind", "name", "distribution", "module")
        data = {**{key: values[key] for key in keys}, "folder": str(folder), "files": sorted(files)}
        click.echo(json.dumps({**data, "warnings": warnings, "next": steps}, indent=2, ensure_ascii=False))
        return
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"wrote {folder}: {kind} {name!r}, distribution {values['distribution']}")
    click.echo("\n".join(f"  {path}" for path in sorted(files)))
    click.echo("next:\n" + "\n".join(f"  {step}" for step in steps))
    click.echo(f"  grep -rn EDIT {folder}")


def class_name(name: str) -> str:
    """The name of a plugin as that of a class: ``my-task`` is ``MyTask``."""
    found = "".join(part.capitalize() for part in name.split("-"))
    return f"{found}Plugin" if found in TAKEN or keyword.iskeyword(found) or hasattr(builtins, found) else found


def render(folders: list[str], values: dict[str, str]) -> dict[str, str]:
    """The files of a package by path: those of each template folder, with the values in place of their names."""
    root = resources.files("refarch") / "templates"
    files: dict[str, str] = {}
    for folder in folders:
        for path, item in _walk(root / folder):
            for key in ("module", "short"):
                path = path.replace(f"__{key}__", values[key])
            files[path.removesuffix(".tmpl")] = Template(item.read_text(encoding="utf-8")).substitute(values)
    return files


def _walk(folder: Traversable, prefix: str = "") -> list[tuple[str, Traversable]]:
    found = []
    for item in folder.iterdir():
        path = f"{prefix}{item.name}"
        if item.is_dir():
            found += _walk(item, f"{path}/")
        elif item.name.endswith(".tmpl"):
            found.append((path, item))
    return found


def _write(folder: Path, files: dict[str, str]) -> None:
    """Write the files beside the folder and move them there at once: it is whole, or it is not there."""
    from refarch.errors import SaveError

    temporary = None
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
        package = temporary / "package"  # made with the usual permissions, which a temporary folder does not have
        for name, text in files.items():
            path = package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        os.rename(package, folder)
    except OSError as error:
        raise SaveError(
            f"could not write {folder}: {error.strerror or error}", "choose another folder with --out"
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _check(kind: str, name: str, example: str | None, model_type: str | None, table: Path | None) -> None:
    from refarch.cli.app import CORE
    from refarch.errors import UsageError

    if not NAME.fullmatch(name) or len(name) > LONGEST:
        better = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-")
        fits = NAME.fullmatch(better) and len(better) <= LONGEST
        raise UsageError(
            f"{name!r} is no name for a plugin: lower-case letters, digits and single hyphens, a letter first,"
            f" {LONGEST} characters at most",
            f"for example {better!r}" if fits else "choose another name",
        )
    if kind == "command" and name in CORE:
        raise UsageError(
            f"refarch itself has a command {name!r}, so this one could never be used", "choose another name"
        )
    if example and kind != "technique":
        raise UsageError(f"--example is what a technique starts from; this is a {kind}")
    if (model_type or table) and kind != "backbone":
        raise UsageError(f"--model-type and --table are for a backbone; this is a {kind}")
    if kind == "backbone" and bool(model_type) == bool(table):
        raise UsageError(
            "a backbone's table is for a transformers model type: give --model-type, or a table with --table",
            "the model type stands in a model's config.json",
        )


def _warnings(kind: str, name: str) -> list[str]:
    """What will go wrong once the package is installed."""
    rivals = [item for item in scan() if item.kind == kind and item.name == name]
    found = [
        f"{item.distribution} provides a {kind} {name!r} too; with both installed, the name is a CONFLICT"
        for item in rivals
    ]
    same = {
        item.distribution for item in scan() if re.sub(r"[-_.]+", "-", item.distribution).lower() == f"refarch-{name}"
    }
    if same:
        found.append(f"the distribution refarch-{name} is installed; installing this one takes its place")
    return found


def _described(kind: str, name: str, summary: str | None, licence: str, author: str | None) -> dict[str, str]:
    """The texts that a user gives, ready for each kind of file."""
    from refarch.errors import UsageError

    summary = (f"The {kind} {name}" if summary is None else summary).strip()
    given = {"--summary": summary, "--licence": licence, "--author": author or ""}
    for flag, text in given.items():
        if not text.isprintable():
            raise UsageError(f"{flag}: it should be one line of printable text")
    if not 0 < len(summary) <= SUMMARY:
        raise UsageError(f"--summary has {len(summary)} characters; between 1 and {SUMMARY} are allowed")
    if not re.fullmatch(r"[A-Za-z0-9.+() -]+", licence):
        raise UsageError(f"--licence {licence}: give an SPDX expression, for example MIT or Apache-2.0")
    return {
        "summary": summary,
        "summary_toml": _quoted(summary),
        "summary_python": _quoted(summary),
        "licence": licence,
        "licence_toml": _quoted(licence),
        "authors": _authors(author),
    }


def _authors(author: str | None) -> str:
    from refarch.errors import UsageError

    if not author or not author.strip():
        return '# authors = [{name = "...", email = "..."}]'
    match = re.fullmatch(r"\s*([^<>]*?)\s*(?:<([^<>\s]+@[^<>\s]+)>)?\s*", author)
    if match is None or not any(match.groups()):
        raise UsageError(f'--author {author}: write "Name", or "Name <address>"')
    parts = [f"{key} = {_quoted(text)}" for key, text in zip(("name", "email"), match.groups(), strict=True) if text]
    return f"authors = [{{{', '.join(parts)}}}]"


def _quoted(text: str) -> str:
    """As a string in double quotes, which TOML and Python both read."""
    return json.dumps(text, ensure_ascii=False)
