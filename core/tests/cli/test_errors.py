"""Every error of the command line: the message, the hint, the exit code, and never a traceback."""

from __future__ import annotations

from typing import Any

import click
import pytest

from refarch.cli import cli
from refarch.errors import RunError, UsageError


def fails(result: Any, code: int, *texts: str) -> None:
    """It ended with ``code``, said every one of ``texts`` on standard error, and showed no traceback."""
    assert result.code == code, result.err
    for text in texts:
        assert text in result.err
    assert "Traceback" not in result.err + result.out


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def callback() -> None:
        raise error

    monkeypatch.setattr(cli, "get_command", lambda context, name: click.Command(name, callback=callback))


def test_help_teaches(site: Any) -> None:
    result = site.refarch("--help")
    assert result.code == 0
    assert "Examples:" in result.out
    assert all(name in result.out for name in ("list-plugins", "run", "schema", "show"))


@pytest.mark.parametrize("command", ["list-plugins", "run", "schema", "show"])
def test_help_of_a_command(site: Any, command: str) -> None:
    result = site.refarch(command, "--help")
    assert result.code == 0
    assert "\b" not in result.out
    assert r"\b" not in result.out
    examples = [line for line in result.out.splitlines() if line.startswith("    refarch ")]
    assert len(examples) >= 2 or command == "show"


def test_version(site: Any) -> None:
    assert site.refarch("--version").out.startswith("refarch, version ")


def test_unknown_command(site: Any) -> None:
    fails(
        site.refarch("list-plugin"), 2, "Error: there is no command 'list-plugin'", "hint: did you mean 'list-plugins'?"
    )


def test_unknown_command_nearest_is_a_plugins(site: Any) -> None:
    site.plugin("quokka", "command")
    fails(site.refarch("quoka"), 2, "there is no command 'quoka'", "did you mean 'quokka'?")


def test_a_plugins_name_is_no_command(site: Any) -> None:
    site.plugin("quokka")
    fails(site.refarch("quokka"), 2, "it is a technique", "hint: refarch show quokka")


def test_unknown_option(site: Any) -> None:
    fails(site.refarch("list-plugins", "--knd"), 2, "--knd", "Try 'refarch list-plugins --help'")


@pytest.mark.parametrize(
    ("error", "code", "texts"),
    [
        (UsageError("it is wrong", "do it right"), 2, ("Error: it is wrong\n", "hint: do it right\n")),
        (RunError("it failed"), 1, ("Error: it failed\n",)),
        (click.BadParameter("no"), 2, ("Invalid value: no",)),
        (KeyboardInterrupt(), 130, ("Interrupted.",)),
        (ZeroDivisionError("by zero"), 1, ("Error: unexpected ZeroDivisionError: by zero", "REFARCH_TRACEBACK=1")),
    ],
)
def test_each_kind_of_error(
    site: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, texts: tuple[str, ...]
) -> None:
    raising(monkeypatch, error)
    fails(site.refarch("anything"), code, *texts)


def test_the_traceback_can_be_asked_for(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, ZeroDivisionError("by zero"))
    for arguments in (("--traceback", "anything"), ("anything", "--traceback")):
        result = site.refarch(*arguments)
        assert result.code == 1
        assert "Traceback" in result.err
    monkeypatch.setenv("REFARCH_TRACEBACK", "1")
    assert "Traceback" in site.refarch("anything").err


def test_a_plugins_command_is_listed_unloaded_and_runs(site: Any) -> None:
    site.plugin("quokka", "command")
    site.plugin("wombat", "command", source="raise RuntimeError('the sky fell')")
    result = site.refarch("--help")
    assert "Commands of plugins" in result.out
    assert "quokka" in result.out
    assert "wombat" in result.out
    assert site.refarch("quokka", "hello").out == "the word is hello\n"
    assert "Say a word." in site.refarch("quokka", "--help").out
    fails(site.refarch("quokka"), 2, "Missing argument 'WORD'")
    fails(site.refarch("wombat"), 2, "command 'wombat' (refarch-wombat 1.0) does not load: RuntimeError: the sky fell")


def test_commands_that_conflict_or_are_blocked(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site.plugin("quokka", "command")
    site.plugin("quokka", "command", distribution="other-quokka")
    assert "[CONFLICT]" in site.refarch("--help").out
    fails(site.refarch("quokka", "x"), 2, "is provided by other-quokka 1.0 and refarch-quokka 1.0", "REFARCH_BLOCK=")
    monkeypatch.setenv("REFARCH_BLOCK", "*quokka")
    assert "quokka" not in site.refarch("--help").out
    fails(site.refarch("quokka", "x"), 2, "blocked by REFARCH_BLOCK")


def test_a_command_that_is_no_click_command(site: Any) -> None:
    source = """
from refarch import CommandSpec, hookimpl

@hookimpl
def refarch_commands():
    return [CommandSpec(name="quokka", summary="wrong", command="json:dumps")]
"""
    site.plugin("quokka", "command", source=source)
    fails(site.refarch("quokka"), 2, "json:dumps is a function, not a click command", "@click.command()")


def test_a_command_whose_module_is_missing(site: Any) -> None:
    source = """
from refarch import CommandSpec, hookimpl

@hookimpl
def refarch_commands():
    return [CommandSpec(name="quokka", summary="wrong", command="no_such_module:main")]
"""
    site.plugin("quokka", "command", source=source)
    fails(site.refarch("quokka"), 2, "'no_such_module:main' cannot be imported: ModuleNotFoundError")


def test_a_plugin_cannot_take_a_core_commands_place(site: Any) -> None:
    site.plugin("run", "command", distribution="refarch-quokka")
    assert "Run a pipeline: backbone" in site.refarch("run", "--help").out
    listed = site.refarch("list-plugins", "--kind", "command").out
    assert "CONFLICT" in listed
    assert "refarch itself has a command of this name" in listed


def test_exit_codes_reach_the_shell(site: Any) -> None:
    program = "import sys; from refarch.cli import main; sys.exit(main())"
    assert site.process("-c", program, "list-plugins").code == 0
    result = site.process("-c", program, "show", "no-such-plugin-anywhere")
    fails(result, 2, "no plugin named 'no-such-plugin-anywhere' is installed")


def test_the_module_runs_too(site: Any) -> None:
    assert site.process("-m", "refarch", "list-plugins").code == 0
    fails(site.process("-m", "refarch", "no-such-command"), 2, "there is no command 'no-such-command'")


def test_completion_loads_no_plugin(site: Any) -> None:
    site.plugin("quokka", "command", source="raise RuntimeError('was imported')")
    items = cli.shell_complete(click.Context(cli), "quo")
    assert [item.value for item in items] == ["quokka"]
