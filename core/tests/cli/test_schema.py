from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from refarch.architecture import PipelineSpec


@pytest.mark.parametrize("name", ["technique", "module", "backbone", "model", "task", "pipeline", "record"])
def test_specs(site: Any, name: str) -> None:
    schema = json.loads(site.refarch("schema", name).out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["properties"]
    assert schema["additionalProperties"] is False


def test_a_plugins_options(site: Any) -> None:
    site.plugin("quokka")
    schema = json.loads(site.refarch("schema", "quokka").out)
    assert schema["properties"]["rank"]["maximum"] == 64
    assert schema["properties"]["flavour"]["enum"] == ["plain", "sweet"]


def test_out_writes_a_file(site: Any, tmp_path: Path) -> None:
    path = tmp_path / "new" / "pipeline.json"
    result = site.refarch("schema", "pipeline", "--out", str(path))
    assert (result.code, result.out) == (0, "")
    assert json.loads(path.read_text())["title"] == PipelineSpec.__name__
    (tmp_path / "file").write_text("")
    result = site.refarch("schema", "pipeline", "--out", str(tmp_path / "file" / "x.json"))
    assert result.code == 1
    assert "could not write" in result.err


def test_a_name_of_two_kinds(site: Any) -> None:
    site.plugin("quokka", distribution="refarch-quokka-technique")
    site.plugin("quokka", "task", distribution="refarch-quokka-task")
    result = site.refarch("schema", "quokka")
    assert result.code == 2
    assert "'quokka' is a technique and a task" in result.err
    assert "max_length" in site.refarch("schema", "quokka", "--kind", "task").out


def test_names_without_options(site: Any) -> None:
    site.plugin("quokka", "backbone")
    assert "'quokka' is a backbone; only techniques and tasks have options" in site.refarch("schema", "quokka").err
    result = site.refarch("schema", "pipelne")
    assert result.code == 2
    assert "did you mean 'pipeline'" in result.err
