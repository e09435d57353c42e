"""A group of commands imports the one that is asked for, and no other."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from refarch.errors import PluginError, UnknownNameError
from refarch.plugins import command_group

PARTS = {
    "good": ("refarch.cli.schema:command", "Prints a schema."),
    "broken": ("no_such_package.module:command", "Is not there."),
}


def test_help_imports_nothing_and_lists_all() -> None:
    done = CliRunner().invoke(command_group("things", "What they do.", PARTS), ["--help"])
    assert done.exit_code == 0 and "What they do." in done.output
    assert [line.split()[0] for line in done.output.splitlines()[-2:]] == ["broken", "good"]


def test_the_one_that_is_asked_for_runs() -> None:
    done = CliRunner().invoke(command_group("things", "", PARTS), ["good", "--help"])
    assert done.exit_code == 0 and "schema" in done.output


def test_what_is_not_there_is_said() -> None:
    group = command_group("things", "", PARTS)
    with pytest.raises(UnknownNameError, match="refarch things has no command 'god'"):
        CliRunner().invoke(group, ["god"], catch_exceptions=False)
    with pytest.raises(PluginError, match="no_such_package"):
        CliRunner().invoke(group, ["broken"], catch_exceptions=False)
