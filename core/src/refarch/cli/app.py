"""The ``refarch`` command: finds commands by name, loads one when it is invoked, and shows errors as errors.

Nothing heavy is imported here: ``refarch --help`` and ``refarch list-plugins`` read metadata only.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from refarch import __version__
from refarch.plugins.discovery import Found, scan

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

CORE = {
    "check": ("refarch.cli.check:command", "Run the conformance kit on a technique, backbone family or task."),
    "list-plugins": ("refarch.cli.list_plugins:command", "Installed plugins, from their metadata alone."),
    "new": ("refarch.cli.new:command", "Write a new plugin: a whole package that installs and passes its tests."),
    "run": ("refarch.cli.run:command", "Run a pipeline: backbone + technique(s) + task."),
    "schema": ("refarch.cli.schema:command", "JSON Schema of a spec, or of a plugin's options."),
    "show": ("refarch.cli.show:command", "What one plugin is: typology, options, slots, metric."),
}
"""The core's commands: where each is, and its line in ``--help`` (so that help imports none of them)."""

TRACEBACK = "REFARCH_TRACEBACK"

HELP = """Parameter-efficient finetuning from a reference architecture: techniques, backbones and tasks are plugins.

\b
Examples:
  refarch list-plugins                    what is installed
  refarch show TECHNIQUE                  its typology, options and defaults
  refarch run pipeline.yaml               run a pipeline, or resume it
  refarch run --backbone B --technique T --task K --set training.epochs=3
  refarch run pipeline.yaml --dry-run     check every name and option, load nothing heavy
  refarch new technique NAME              write a technique of your own, as a package
  refarch check NAME                      what holds for a plugin and what does not

Loading a plugin runs its code. REFARCH_PLUGINS allows and REFARCH_BLOCK blocks plugins by name (comma-separated,
patterns allowed); REFARCH_STRICT=1 turns every plugin problem into an error.
"""


class Commands(click.Group):
    """The core's commands and those of plugins, each imported when it is invoked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, _ in _listed()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in CORE:
            return _imported(CORE[cmd_name][0])
        if any(item.name == cmd_name for item in _command_plugins()):
            return _plugin_command(cmd_name)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None:
            if name.startswith("-"):
                return super().resolve_command(ctx, args)
            _unknown(name)
        return name, command, args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = _listed()
        with formatter.section("Commands"):
            formatter.write_dl([row for row in rows if row[0] in CORE])
        plugins = [row for row in rows if row[0] not in CORE]
        if plugins:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(plugins)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        rows = [CompletionItem(name, help=text) for name, text in _listed() if name.startswith(incomplete)]
        return rows + click.Command.shell_complete(self, ctx, incomplete)


@click.group("refarch", cls=Commands, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--traceback", is_flag=True, help=f"Show the traceback of an error ({TRACEBACK}=1 does so too).")
@click.version_option(__version__, prog_name="refarch")
def cli(traceback: bool) -> None:
    """The group; its help text is :data:`HELP`, and :func:`main` takes care of ``--traceback``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for a failed run, 2 for wrong use, 130 when interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    wanted = os.environ.get(TRACEBACK, "").lower() in ("1", "true", "yes", "on")
    if "--traceback" in arguments:  # wherever it stands: it is added after an error was seen
        arguments.remove("--traceback")
        wanted = True
    try:
        code = cli.main(arguments, prog_name="refarch", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return 130
    except Exception as error:  # the last resort: a person at a terminal gets a sentence, not a stack
        if wanted:
            import traceback

            traceback.print_exception(error)
        return _show(error)


def _show(error: Exception) -> int:
    from refarch.errors import RefarchError

    if isinstance(error, RefarchError):
        message, hint, code = error.message, error.hint, error.exit_code
    else:
        message = f"unexpected {type(error).__name__}: {error}"
        hint, code = f"this is a bug in refarch or in a plugin; add --traceback (or set {TRACEBACK}=1) to see where", 1
    click.echo(f"Error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return code


def _command_plugins() -> list[Found]:
    return [item for item in scan() if item.kind == "command"]


def _listed() -> list[tuple[str, str]]:
    """Names and summaries: the core's, then those of plugins that may be used."""
    rows = {name: summary for name, (_, summary) in CORE.items()}
    for item in _command_plugins():
        if item.status != "blocked":
            mark = f"[{item.status}] " if item.status != "ok" else ""
            rows.setdefault(item.name, mark + item.summary)
    return list(rows.items())


def _imported(path: str) -> click.Command:
    module, _, name = path.partition(":")
    command = getattr(importlib.import_module(module), name)
    assert isinstance(command, click.Command)
    return command


def _plugin_command(name: str) -> click.Command:
    from refarch.errors import PluginError
    from refarch.plugins.registry import default_registry, resolve

    spec = default_registry().command(name)
    command: Any = resolve(spec.command)
    if not isinstance(command, click.Command):
        raise PluginError(
            f"command {name!r}: {spec.command} is a {type(command).__name__}, not a click command",
            "tell its author: decorate the function with @click.command()",
        )
    return command


def _unknown(name: str) -> NoReturn:
    from refarch.errors import UnknownNameError, did_you_mean, nearest

    known = [row[0] for row in _listed()]
    other = next((item for item in scan() if item.name == name), None)
    if other is not None and not nearest(name, known):
        raise UnknownNameError(f"there is no command {name!r}; it is a {other.kind}", f"refarch show {name}")
    raise UnknownNameError(f"there is no command {name!r}", did_you_mean(name, known))
