"""The documentation against the code: hooks, code blocks, the README's commands."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import warm

from refarch.plugins import HOOK_SPECIFICATIONS

ROOT = Path(__file__).parent.parent
MARKED = re.compile(r"<!-- test -->\n```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import generate
    finally:
        sys.path.pop(0)
    folder = tmp_path_factory.mktemp("generated")
    generate.write_all(folder)
    return folder


def test_every_hook_is_documented_with_its_arguments(generated):
    text = (generated / "hooks.md").read_text()
    assert len(HOOK_SPECIFICATIONS) >= 8
    for name, hook in HOOK_SPECIFICATIONS.items():
        section = text.split(f"## {name}\n")[1].split("\n## ")[0]
        for argument in inspect.signature(hook).parameters:
            assert argument in section
    assert "_generated/hooks.md" in (ROOT / "docs/hooks.md").read_text()


def test_the_matrix_allows_what_the_design_lists(generated):
    lines = (generated / "matrix.md").read_text().splitlines()
    head = [cell.strip() for cell in lines[0].strip("|").split("|")]
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]}
    allowed = {form: {head[i] for i, cell in enumerate(row) if cell == "yes"} for form, row in rows.items()}
    assert allowed["concatenation"] == {"inputs", "key_value"}
    assert "key_value" in allowed["gated addition"] and "inputs" not in allowed["gated addition"]
    assert allowed["transformation"] == {"linear"}
    assert "a linear input" in allowed["rescaling"]
    assert "a linear input" not in allowed["direct addition"]


def marked(page):
    code = "\n".join(MARKED.findall((ROOT / page).read_text(encoding="utf-8")))
    assert code
    return ["-c", code]


@pytest.mark.slow
def test_marked_code_runs_in_a_fresh_interpreter(tmp_path):
    done = subprocess.run([sys.executable, *marked("README.md")], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/quickstart.md", "docs/composition.md"])
def test_marked_code_runs(page, tmp_path):
    done = warm.run(marked(page), tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_readme_has_the_two_commands_as_one_liners():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for mark in ("run", "tests"):
        block = re.search(rf"<!-- {mark} -->\n```bash\n(.*?)```", text, re.DOTALL)
        assert block is not None
        assert len(block[1].strip().splitlines()) == 1
