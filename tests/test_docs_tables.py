"""The two commands that write tables of the documentation: the conformance matrix, and lines of code a plugin."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def load(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_code_size_page_is_in_step_with_the_code():
    written = (ROOT / "docs/code-size.md").read_text(encoding="utf-8")
    assert written == load("code_size").page(), "run: python docs/code_size.py"


def test_the_median_technique_is_as_short_as_the_design_promises():
    module = load("code_size")
    found = sorted(module.sizes("techniques").values())
    assert found[len(found) // 2] <= module.LIMIT


def test_lines_of_code_are_lines_with_code():
    text = '''"""A module.

Over three lines."""

import os  # counts

X = 1
"""An attribute's docstring."""


def f(a,
      b):
    """Doc."""
    # a comment
    text = """not a docstring
    # so its lines count
    """
    return (a,

            b, text)
'''
    assert load("code_size").lines_of_code(text) == 9


@pytest.mark.slow
def test_the_matrix_of_one_technique_and_one_family(tmp_path):
    command = [sys.executable, str(ROOT / "docs/matrix.py"), "--technique", "ln-tuning", "--family", "bert"]
    files = ["--json", str(tmp_path / "results.json"), "--output", str(tmp_path / "matrix.md")]
    done = subprocess.run([*command, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[2/2" in done.stderr
    page = (tmp_path / "matrix.md").read_text(encoding="utf-8")
    assert "1 techniques x 1 families. Of 2 cells **2 pass**, 0 not applicable, **0 fail**" in page
    cells = {cell["family"]: cell for cell in json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))}
    assert set(cells) == {"plugin", "bert"}
    for result in cells["bert"]["results"]:
        if result["outcome"] == "skipped":
            assert f"| `{result['check']}` |" in page  # nothing is skipped in silence
            assert result["message"]


def result(outcome, model="tiny-A", message="", check="c"):
    return {"outcome": outcome, "model": model, "message": message, "check": check}


def test_the_matrix_shows_failures_reasons_and_broken_plugins():
    matrix = load("matrix")
    cells = [
        matrix.Cell("a", "x", [result("passed"), result("skipped", message="no 'a' on tiny-A\n hint: none")]),
        matrix.Cell("a", "y", [result("skipped", message="'a' does not apply to tiny-A: no slot")]),
        matrix.Cell("b", "x", [result("passed"), result("failed", message="1 | 2 differ")]),
        matrix.Cell("b", "y", error="PluginError: it is broken"),
        matrix.Cell("c", "x"),
    ]
    assert [cell.state for cell in cells] == ["pass", "not applicable", "FAIL", "FAIL", "FAIL"]
    page = matrix.page(cells)
    assert "Of 5 cells **1 pass**, 1 not applicable, **3 fail**" in page
    assert "| `a` | 1+1 | n/a (1) |" in page
    assert "| `b` | **FAIL** | **FAIL** |" in page
    assert "| `c` | **FAIL** | not run |" in page
    assert "1. the technique does not apply to the model: no slot" in page
    assert "`b` on `x`: `c` (tiny-A): 1 | 2 differ" in page
    assert "`b` on `y`: PluginError: it is broken" in page
    assert "`c` on `x`: no check ran" in page
    assert "| `c` | no the technique on the model | `a` | x |" in page


def test_a_technique_that_does_not_load_costs_its_own_cell_only():
    matrix = load("matrix")
    cell = matrix.run_cell("no-such-technique", "bert", matrix.Own())
    assert cell.state == "FAIL"
    assert "no technique named" in cell.error


def test_options_and_exemptions_are_those_of_the_plugins_own_tests_on_all_families(tmp_path):
    folder = tmp_path / "plugins/techniques/t/tests"
    folder.mkdir(parents=True)
    (folder / "test_t.py").write_text(
        "class TestSome(TechniqueConformance):\n    technique = 't'\n    families = ('bert',)\n"
        "class TestT(TechniqueConformance):\n    technique = 't'\n    options = {'rank': 2}\n"
        "    exempt = {'test_merges': 'because'}\n"
        "class TestOther(TechniqueConformance):\n    technique = 't'\n    exempt = {'identity': 'with these alone'}\n",
        encoding="utf-8",
    )
    matrix = load("matrix")
    assert matrix.own_tests(tmp_path) == {"t": matrix.Own({"rank": 2}, {"merges": "because"})}
