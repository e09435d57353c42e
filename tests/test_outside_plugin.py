"""A technique written outside this repository, installed beside refarch in a virtual environment of its own.

Everything comes into the environment as a user would get it: refarch, a backbone family and the new package are built
and installed, none of them editable, and torch comes from the package index (about a minute on two cores).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
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


class Environment:
    """A fresh virtual environment."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / ("Scripts" if os.name == "nt" else "bin")
        self.variables = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV", "REFARCH_"))
        }
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, env=self.variables)

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


@pytest.mark.slow
def test_a_technique_from_outside(tmp_path: Path) -> None:
    package = tmp_path / "somebodys-package"
    for name, text in FILES.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")
    assert ROOT not in package.parents
    try:
        check(Environment(tmp_path / "venv"), package)
    finally:
        shutil.rmtree(tmp_path / "venv", ignore_errors=True)  # more than a gigabyte


def check(environment: Environment, package: Path) -> None:
    """Install everything, then use the package as its author and as its users would."""
    torch = f"torch=={metadata.version('torch').partition('+')[0]}"
    ours = [f"{ROOT / 'core'}[testing]", str(ROOT / "plugins" / "backbones" / "bert")]
    environment.run("pip", "install", "--quiet", *ours, str(package), torch)

    rows = {row["name"]: row for row in json.loads(environment.run("refarch", "list-plugins", "--json"))}
    assert set(rows) == {"bert", NAME}, "the environment is not fresh"
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
