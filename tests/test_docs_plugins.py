"""docs/plugins.md, as its reader would follow it: every marked block, in order, in a fresh virtual environment; then a
technique that somebody else has published, installed into the same environment.

Our own packages come as wheels built here; everything else comes from the package index (some minutes on two cores).
Nothing is editable, and no folder of this repository is on any path.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "plugins.md"
BLOCK = re.compile(r"<!-- walk(?:: (?P<file>\S+))? -->\n```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
OURS = ("core", "plugins/backbones/bert", "plugins/backbones/gpt2")


NAME = "row-scaled-low-rank"
FILES = {
    "pyproject.toml": """
        [build-system]
        requires = ["flit_core>=3.11,<5"]
        build-backend = "flit_core.buildapi"

        [project]
        name = "somebodys-row-scaled-low-rank"
        version = "0.3.0"
        description = "A low-rank update whose rows have trainable factors"
        requires-python = ">=3.11"
        dependencies = ["refarch"]

        [project.entry-points."refarch.technique"]
        row-scaled-low-rank = "row_scaled_low_rank"

        [tool.flit.module]
        name = "row_scaled_low_rank"
        """,
    "src/row_scaled_low_rank/__init__.py": '''
        """h = W0 x + alpha / r diag(d) B A x."""

        from refarch import ModuleSpec, Option, TechniqueSpec, hookimpl

        SPEC = TechniqueSpec(
            name="row-scaled-low-rank",
            summary="Low-rank updates with a trainable factor for each row",
            modules=(
                ModuleSpec(
                    name="update",
                    workspace=("attention.query", "attention.value"),
                    insertion="parallel",
                    integration="scaled addition",
                    input_type="hidden",
                    adapted="reparameterisation",
                    intra="dense",
                    inter="fixed",
                    form="linear",
                    function="row_scaled_low_rank.function:RowScaledLowRank",
                ),
            ),
            options=(
                Option(name="rank", type="integer", default=4, minimum=1, size=True, help="r"),
                Option(name="alpha", type="number", default=8.0, help="the update is scaled by alpha / r"),
            ),
        )


        @hookimpl
        def refarch_techniques():
            return [SPEC]
        ''',
    "src/row_scaled_low_rank/function.py": '''
        """The function: alpha / r diag(d) B A x, with B = 0 and d = 1 at the start."""

        import torch
        from torch import nn

        from refarch import Function, SlotShape


        class RowScaledLowRank(Function):
            """x -> d * B A x."""

            def __init__(self, shape: SlotShape, rank: int, alpha: float) -> None:
                super().__init__()
                self.down = nn.Parameter(torch.empty(rank, shape.d_in))
                self.up = nn.Parameter(torch.zeros(shape.d_out, rank))
                self.rows = nn.Parameter(torch.ones(shape.d_out))
                self.scale = alpha / rank
                nn.init.kaiming_uniform_(self.down, a=5**0.5)

            def forward(self, x):  # ... d_in -> ... d_out
                return x @ self.down.T @ self.up.T * self.rows

            def delta(self):
                return self.rows[:, None] * (self.up @ self.down)
        ''',
    "tests/test_conformance.py": """
        from refarch.testing import TechniqueConformance


        class TestRowScaledLowRank(TechniqueConformance):
            technique = "row-scaled-low-rank"
            options = {"rank": 2}
        """,
    "attach_it.py": """
        import sys

        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification

        import refarch

        tiny = refarch.default_registry().family_for("bert").tiny
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **tiny.config)).eval()
        ids = torch.arange(3, 19).reshape(2, 8)
        before = model(ids).logits
        adaptation = refarch.attach(model, "row-scaled-low-rank", rank=2)
        assert torch.equal(model(ids).logits, before), "another output at the start"
        hidden, layers, matrices, rank = tiny.config["hidden_size"], tiny.config["num_hidden_layers"], 2, 2
        assert adaptation.count() == layers * matrices * (2 * rank * hidden + hidden), adaptation.count()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
        for _ in range(3):
            optimizer.zero_grad()
            model(ids).logits[:, 0].sum().backward()
            optimizer.step()
        after = model(ids).logits
        assert not torch.equal(after, before), "training changes nothing"
        adaptation.save(sys.argv[1])
        adaptation.merge()
        torch.testing.assert_close(model(ids).logits, after)
        adaptation.unmerge()
        adaptation.detach()
        assert torch.equal(model(ids).logits, before), "detaching does not restore the model"
        refarch.load(model, sys.argv[1])
        assert torch.equal(model(ids).logits, after), "what was saved is not what is loaded"
        print("attached, trained, saved, merged, detached, loaded")
        """,
}


def blocks() -> list[tuple[str | None, str, str]]:
    """File name (None for commands), language and text of each block of the walk, in order."""
    return [
        (found["file"], found["language"], found["text"]) for found in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))
    ]


def test_the_walk_is_there() -> None:
    found = blocks()
    assert len(found) >= 8
    assert all((language == "bash") == (file is None) for file, language, _ in found)
    assert PAGE.read_text(encoding="utf-8").count("<!-- walk") == len(found), "a marked block is not read"


@pytest.mark.slow
def test_the_walk_runs_and_a_technique_from_outside(tmp_path: Path) -> None:
    wheels, home = tmp_path / "wheels", tmp_path / "reader"
    home.mkdir()
    ours = [str(ROOT / folder) for folder in OURS]
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), *ours]
    subprocess.run([sys.executable, *build], check=True, timeout=300)
    (tmp_path / "constraints.txt").write_text(f"torch=={metadata.version('torch').partition('+')[0]}\n")
    script = ["set -euo pipefail"]
    for number, (file, _, text) in enumerate(blocks()):
        if file is None:
            script += ["set -x", text, "{ set +x; } 2>/dev/null"]
        else:
            (tmp_path / f"block-{number}").write_text(text, encoding="utf-8")
            script.append(f"cp {shlex.quote(str(tmp_path / f'block-{number}'))} {shlex.quote(file)}")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "REFARCH_"))}
    links = " ".join(filter(None, [os.environ.get("PIP_FIND_LINKS"), str(wheels)]))
    found = {
        **kept,
        "PIP_FIND_LINKS": links,
        "PIP_CONSTRAINT": str(tmp_path / "constraints.txt"),
        "PIP_QUIET": "1",
        "PIP_NO_COMPILE": "no",  # pip reads it as the value of "compile"; what is used gets compiled
    }
    try:
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)], cwd=home, env=found, capture_output=True, text=True, timeout=1500
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said[-8000:]
        assert re.search(r"^technique ranked-update, on [2-9] models: ", done.stdout, re.MULTILINE), said[-8000:]
        assert re.search(r"^=+ \d+ passed.*=$", done.stdout, re.MULTILINE), said[-8000:]
        assert re.search(r"^ranked-update: attention.query, attention.value$", done.stdout, re.MULTILINE)
        use_from_outside(Environment(home / ".venv"), written(tmp_path / "somebodys-package"))
    finally:
        shutil.rmtree(home / ".venv", ignore_errors=True)  # more than a gigabyte


def written(package: Path) -> Path:
    """The package of somebody else, as files."""
    for name, text in FILES.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")
    assert ROOT not in package.parents
    return package


class Environment:
    """The reader's virtual environment."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.variables = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV", "REFARCH_"))
        }

    def run(self, program: str, *arguments: str, code: int = 0, cwd: Path | None = None) -> str:
        """Run one of its programs; gives its standard output and error."""
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            capture_output=True,
            text=True,
            env=self.variables,
            cwd=cwd,
            timeout=900,
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, (
            f"{program} {' '.join(arguments)} exited with {done.returncode}:\n{said[-8000:]}"
        )
        return said if code else done.stdout


def use_from_outside(environment: Environment, package: Path) -> None:
    """Install the package, then use the package as its author and as its users would."""
    environment.run("pip", "install", "--quiet", "--no-deps", str(package))

    rows = {row["name"]: row for row in json.loads(environment.run("refarch", "list-plugins", "--json"))}
    theirs = {"bert", "gpt2", "ranked-update", "my-command", "my-observer", "my-task", NAME}
    assert set(rows) == theirs, "the environment is not the reader's"
    row = rows[NAME]
    assert (row["kind"], row["status"], row["distribution"]) == ("technique", "ok", "somebodys-row-scaled-low-rank")
    assert (row["version"], row["summary"]) == ("0.3.0", "A low-rank update whose rows have trainable factors")
    environment.run("refarch", "list-plugins", "--check")
    assert "scaled addition" in environment.run("refarch", "show", NAME)

    said = environment.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=package)
    assert " passed" in said.splitlines()[-1], said
    assert "failed" not in said.splitlines()[-1]
    said = environment.run("python", "attach_it.py", str(package / "saved"), cwd=package)
    assert said == "attached, trained, saved, merged, detached, loaded\n"

    environment.run("pip", "uninstall", "--quiet", "--yes", row["distribution"])
    said = environment.run("refarch", "show", NAME, code=2)
    assert f"no plugin named '{NAME}' is installed" in said
