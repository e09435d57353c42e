"""A command with commands of its own, each imported when it is invoked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, NoReturn

import click

from refarch.errors import UnknownNameError, did_you_mean
from refarch.plugins.registry import resolve


class Subcommand(NamedTuple):
    """One command of a group."""

    path: str
    """Import path of the click command: ``package.module:name``."""
    summary: str
    """Its line in the group's ``--help``, which so imports none of them."""


def command_group(name: str, help: str, parts: Mapping[str, tuple[str, str]]) -> click.Group:
    """A click group for a plugin's :class:`~refarch.CommandSpec`.

    Args:
        name: the command's.
        help: what its ``--help`` says above the list.
        parts: of each command the import path and its line in that list.
    """
    own = {key: Subcommand(*part) for key, part in parts.items()}

    class Group(click.Group):
        def list_commands(self, ctx: click.Context) -> list[str]:
            return sorted(own)

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            if cmd_name not in own:
                return None
            command = resolve(own[cmd_name].path)
            assert isinstance(command, click.Command)
            return command

        def resolve_command(
            self, ctx: click.Context, args: list[str]
        ) -> tuple[str | None, click.Command | None, list[str]]:
            if args[0] not in own and not args[0].startswith("-"):
                _unknown(args[0])
            return super().resolve_command(ctx, args)

        def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            with formatter.section("Commands"):
                formatter.write_dl([(key, own[key].summary) for key in sorted(own)])

    def _unknown(asked: str) -> NoReturn:
        raise UnknownNameError(f"refarch {name} has no command {asked!r}", did_you_mean(asked, own))

    return Group(name, help=help, context_settings={"help_option_names": ["-h", "--help"]})
