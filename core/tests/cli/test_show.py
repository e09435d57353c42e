from __future__ import annotations

import json
from typing import Any

import pytest


def test_a_technique(site: Any) -> None:
    site.plugin("quokka")
    out = site.refarch("show", "quokka").out
    for text in (
        "quokka (technique) - A technique made for tests",
        "from refarch-quokka 1.0",
        "reference: Nobody 2020",
        "module part: works at attention.query; layers: all",
        "parameters adapted",
        "new parameters",
        "a nonlinear network on each position",
        "paper: section 3",
        "assigned",
        ">= 1, <= 64",
        "plain | sweet",
        "how it tastes",
        "rank=1",
    ):
        assert text in out


def test_a_backbone_and_a_model(site: Any) -> None:
    site.plugin("quokka", "backbone")
    out = site.refarch("show", "quokka").out
    for text in ("model types: quokka", "encoder, layers at layers.{}", "ffn.up", "up[0/2]", "embedding"):
        assert text in out
    out = site.refarch("show", "quokka-model").out
    assert "refarch_quokka:folder" in out
    assert "licence: MIT" in out


def test_a_task_and_a_command(site: Any) -> None:
    site.plugin("quokka", "task")
    out = site.refarch("show", "quokka").out
    assert "metric: accuracy (higher is better)" in out
    assert "epochs=5" in out
    assert next(row for row in out.splitlines() if "max_length" in row).split()[:3] == ["max_length", "integer", "16"]
    site.plugin("wombat", "command")
    assert "refarch wombat --help" in site.refarch("show", "wombat").out


def test_one_name_of_several_kinds(site: Any) -> None:
    site.plugin("quokka", "task", distribution="refarch-quokka-task")
    site.plugin("quokka", "command", distribution="refarch-quokka-command")
    out = site.refarch("show", "quokka").out
    assert "quokka (task)" in out
    assert "quokka (command)" in out
    assert "(command)" not in site.refarch("show", "quokka", "--kind", "task").out


def test_json(site: Any) -> None:
    site.plugin("quokka")
    data = json.loads(site.refarch("show", "quokka", "--json").out)
    assert data[0]["plugin"]["distribution"] == "refarch-quokka"
    assert data[0]["spec"]["modules"][0]["insertion"] == "parallel"


def test_unknown_names_are_answered_over_all_kinds(site: Any) -> None:
    site.plugin("quokka", "task")
    result = site.refarch("show", "quokk")
    assert result.code == 2
    assert "Error: no plugin named 'quokk' is installed" in result.err
    assert "hint: did you mean 'quokka'? (or a plugin may provide it: pip install refarch-quokk)" in result.err


@pytest.mark.parametrize("arguments", [["show", "quokka"], ["schema", "quokka"]])
def test_a_broken_plugin(site: Any, arguments: list[str]) -> None:
    site.plugin("quokka", source="raise RuntimeError('the sky fell')")
    result = site.refarch(*arguments)
    assert result.code == 2
    assert "does not load: RuntimeError: the sky fell" in result.err
    assert "Traceback" not in result.err


def test_an_observer(site: Any) -> None:
    site.module("watcher", "from refarch import hookimpl\n")
    site.install("refarch-watcher", "[refarch.observer]\nquokka = watcher\n")
    assert "an observer" in site.refarch("show", "quokka").out
