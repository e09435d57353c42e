from __future__ import annotations

import json
from typing import Any

import pytest

HEAVY = ("torch", "transformers", "numpy", "pydantic", "pluggy", "rich", "yaml")
LISTING = """
import sys
from refarch.cli import main
code = main(sys.argv[1:])
heavy = [name for name in {heavy} if name in sys.modules]
print("HEAVY", heavy, code, file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["list-plugins"], ["list-plugins", "--json"], ["--help"], ["--version"]])
def test_start_up_is_light(site: Any, arguments: list[str]) -> None:
    site.plugin("quokka", source="raise RuntimeError('was imported')")
    result = site.process("-c", LISTING.format(heavy=HEAVY), *arguments)
    assert "HEAVY [] 0" in result.err
    assert "quokka" in result.out or "list-plugins" not in arguments


def test_importtime_shows_no_heavy_module(site: Any) -> None:
    """The interpreter's own account of what was imported, however it may have been hidden."""
    result = site.process("-X", "importtime", "-c", "from refarch.cli import main; main(['list-plugins'])")
    imported = {line.rpartition("|")[2].strip() for line in result.err.splitlines() if line.startswith("import time:")}
    assert "refarch.plugins.discovery" in imported
    assert not imported & set(HEAVY)


def test_the_table(site: Any) -> None:
    site.plugin("quokka")
    lines = site.refarch("list-plugins").out.splitlines()
    assert lines[0].split() == ["NAME", "KIND", "VERSION", "STATUS", "SUMMARY"]
    row = next(line for line in lines if line.startswith("quokka "))
    assert row.split(maxsplit=4) == ["quokka", "technique", "1.0", "ok", "made for tests"]


def test_kind_and_json(site: Any) -> None:
    site.plugin("quokka")
    site.plugin("wombat", "task")
    rows = json.loads(site.refarch("list-plugins", "--json", "--kind", "task").out)
    assert {row["kind"] for row in rows} == {"task"}
    assert next(row for row in rows if row["name"] == "wombat") == {
        "name": "wombat",
        "kind": "task",
        "target": "refarch_wombat",
        "distribution": "refarch-wombat",
        "version": "1.0",
        "summary": "made for tests",
        "status": "ok",
        "problem": "",
    }


def test_without_check_a_broken_plugin_is_not_noticed(site: Any) -> None:
    site.plugin("quokka", source="raise RuntimeError('the sky fell')")
    result = site.refarch("list-plugins")
    assert result.code == 0
    assert "sky" not in result.out


def test_check_reports_all_problems_and_exits_1(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFARCH_PLUGINS", "quokka*")
    site.plugin("quokka-broken", source="raise RuntimeError('the sky fell')")
    site.plugin("quokka-twice")
    site.plugin("quokka-twice", distribution="other-quokka")
    site.plugin("quokka-old", contract=0)
    site.plugin("quokka-new", contract=2)
    site.plugin("quokka-fine")
    result = site.refarch("list-plugins", "--check")
    assert result.code == 1
    assert "Traceback" not in result.err
    assert "refarch-quokka-broken: RuntimeError: the sky fell" in result.out
    assert "other-quokka: refarch-quokka-twice provides this name too" in result.out
    assert "speaks contract 0, refarch speaks 1" in result.out
    assert "speaks contract 2, refarch speaks 1" in result.out
    assert "4 of " in result.err
    assert all(text in result.err for text in ("2 CONFLICT", "1 error", "1 newer contract"))


def test_check_of_working_plugins_exits_0(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFARCH_PLUGINS", "quokka*")
    for kind in ("technique", "task", "backbone", "command"):
        site.plugin(f"quokka-{kind}", kind)
    site.plugin("wombat", source="raise RuntimeError('was imported')")
    result = site.refarch("list-plugins", "--check")
    assert (result.code, result.err) == (0, "")
    assert "blocked" in result.out
    assert "refarch-wombat: not in REFARCH_PLUGINS" in result.out


def test_strict_mode_lists_everything_and_fails(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFARCH_PLUGINS", "quokka*")
    monkeypatch.setenv("REFARCH_STRICT", "1")
    site.plugin("quokka")
    assert site.refarch("list-plugins").code == 0
    site.plugin("quokka", distribution="other-quokka")
    site.plugin("quokka-broken", source="raise RuntimeError('the sky fell')")
    assert site.refarch("list-plugins").code == 1
    result = site.refarch("list-plugins", "--check")
    assert result.code == 1
    assert "the sky fell" in result.out
    result = site.refarch("show", "quokka")
    assert result.code == 2
    assert "Error: plugins conflict: technique 'quokka' (other-quokka)" in result.err


def test_no_plugins_at_all(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refarch.cli.list_plugins.scan", lambda settings: [])
    assert "no plugins are installed" in site.refarch("list-plugins").out
