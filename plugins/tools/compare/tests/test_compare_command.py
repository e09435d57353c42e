"""The group: its help, and what it says to a name that it does not have."""

from __future__ import annotations

import subprocess
import sys

from refarch_compare.command import PARTS

from refarch.cli import main


def test_help_lists_the_commands_and_imports_none(capsys) -> None:
    assert main(["compare", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in PARTS)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from refarch.cli.app import main; main(['compare', '--help']); "
        "print([name for name in ('torch', 'scipy', 'numpy', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_an_unknown_command_names_the_nearest(capsys) -> None:
    assert main(["compare", "structur"]) == 2
    assert "structure" in capsys.readouterr().err
