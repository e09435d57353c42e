"""The two commands that write tables of the documentation: the conformance matrix, and lines of code a plugin."""

import importlib.util
import sys
from pathlib import Path

import pytest
from cells import Cell, Matrix
from digests import Digests, Own, own_tests

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


def ran(tmp_path, *arguments):
    """The matrix command in this process, on files of the test's own; gives its exit status and the page."""
    files = ["--results", str(tmp_path / "results.jsonl"), "--output", str(tmp_path / "matrix.md"), "--processes", "0"]
    status = load("matrix").main([*arguments, *files])
    return status, (tmp_path / "matrix.md").read_text(encoding="utf-8")


def test_the_matrix_of_one_technique_and_one_family(tmp_path, capsys):
    one = ["--technique", "ln-tuning", "--family", "bert"]
    status, page = ran(tmp_path, *one)
    assert status == 0
    said = capsys.readouterr().err
    assert "[2/2]" in said and "2 cells ran" in said
    assert "1 techniques x 1 families. Of 2 cells **2 pass**, 0 not applicable, **0 fail**" in page
    matrix = Matrix.read(tmp_path / "results.jsonl")
    assert set(matrix.cells) == {("ln-tuning", "plugin"), ("ln-tuning", "bert")}
    skipped = [other for other in matrix.cells["ln-tuning", "bert"].others if other[1] == "skipped"]
    for check, _, _, message in skipped:
        assert f"| `{check}` |" in page  # nothing is skipped in silence
        assert message
    assert skipped

    assert ran(tmp_path, *one) == (0, page)
    assert "0 cells ran" in capsys.readouterr().err, "what is up to date runs again"


def test_a_killed_matrix_goes_on_where_it_was(tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    now = Digests().cell("ln-tuning", "plugin")
    Matrix().add(Cell("ln-tuning", "plugin", passed=77, ran_on=now), results)
    results.write_bytes(results.read_bytes() + b'{"technique": "ln-tuning", "family": "be')  # half a line
    status, page = ran(tmp_path, "--technique", "ln-tuning", "--family", "bert")
    assert status == 0
    assert "1 cells ran" in capsys.readouterr().err
    assert "| `ln-tuning` | 77 | " in page, "a cell that was there ran again"
    assert len(Matrix.read(results).cells) == 2


def other(outcome, model="tiny-A", message="", check="c"):
    return [check, outcome, model, message]


def test_the_matrix_shows_failures_reasons_and_what_it_ran_on():
    cells = [
        Cell(
            "a", "x", 1, [other("skipped", message="no 'a' on tiny-A\n hint: none")], ran_on={"kit": "k", "core": "c"}
        ),
        Cell("a", "y", 0, [other("skipped", message="'a' does not apply to tiny-A: no slot")]),
        Cell("b", "x", 1, [other("failed", message="1 | 2 differ")]),
        Cell("b", "y", error="PluginError: it is broken"),
        Cell("c", "x"),
    ]
    assert [cell.state for cell in cells] == ["pass", "not applicable", "FAIL", "FAIL", "FAIL"]
    page = load("matrix").page(cells)
    assert "Of 5 cells **1 pass**, 1 not applicable, **3 fail**" in page
    assert "| `a` | 1+1 | n/a (1) |" in page
    assert "| `b` | **FAIL** | **FAIL** |" in page
    assert "| `c` | **FAIL** | not run |" in page
    assert "1. the technique does not apply to the model: no slot" in page
    assert "`b` on `x`: `c` (tiny-A): 1 | 2 differ" in page
    assert "`b` on `y`: PluginError: it is broken" in page
    assert "`c` on `x`: no check ran" in page
    assert "| `c` | no the technique on the model | `a` | x |" in page
    assert "| `k` | `c` | 1 |" in page


def test_a_technique_that_does_not_load_costs_its_own_cell_only():
    cell = load("matrix").run_cell("no-such-technique", "bert", Own(), {})
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
    assert own_tests(tmp_path) == {"t": Own({"rank": 2}, {"merges": "because"})}


def test_results_survive_their_file(tmp_path):
    cells = [
        Cell("a", "x", 3, [other("skipped", message="why"), other("failed", message="why")], ran_on={"kit": "k"}),
        Cell("a", "y", error="it died", seconds=1.5),
    ]
    matrix = Matrix({cell.place: cell for cell in cells})
    matrix.write(tmp_path / "r.jsonl")
    assert Matrix.read(tmp_path / "r.jsonl") == matrix


def test_the_matrix_is_up_to_date(request):
    """The committed table ran on the plugins and the kit that are here; the core's own code changes more often.

    What depends on the core is in the covering sample, which each run of the tests has. So there the table is said to
    be out of date, which `--full` and a release do not accept.
    """
    matrix, page = Matrix.read(), load("matrix")
    differs = dict(matrix.outdated(page.places(), Digests()))
    assert all(reasons == ["core"] for reasons in differs.values()), (
        f"run: python docs/matrix.py --plugins\n{page.out_of_date(matrix, page.places(), Digests())}"
    )
    assert page.PAGE.read_text(encoding="utf-8") == page.written(matrix, []), (
        "docs/matrix.md is not of docs/matrix.jsonl"
    )
    if differs:
        assert not request.config.getoption("full"), f"run: python docs/matrix.py ({len(differs)} cells, by the core)"
        pytest.skip(f"docs/matrix.md is out of date by the core in {len(differs)} cells: python docs/matrix.py")
