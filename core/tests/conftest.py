"""Fake plugins for the tests of the loader and of the command line: real metadata and modules in a temporary folder.

The throwaway functions and model builders of ``helpers`` can be imported by name, as a plugin's function would be.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import warm

from refarch.cli import main
from refarch.plugins import forget_plugins

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

TECHNIQUE = """
from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

SPEC = TechniqueSpec(
    name="{name}",
    summary="A technique made for tests",
    reference="Nobody 2020",
    modules=(
        ModuleSpec(
            name="part", workspace=("attention.query",), insertion="parallel", integration="direct addition",
            input_type="hidden", adapted="addition", intra="dense", inter="fixed", form="mlp",
            function="{module}_function:Part",
            provenance={{"form": Provenance(source="paper", reference="section 3")}},
        ),
    ),
    options=(
        Option(name="rank", type="integer", default=8, minimum=1, maximum=64, help="how large it is"),
        Option(name="flavour", type="string", default="plain", choices=("plain", "sweet"), help="how it tastes"),
    ),
    presets={{"tiny": {{"rank": 1}}}},
    contract={contract},
)


@hookimpl
def refarch_techniques():
    return [SPEC]
"""
TASK = """
from refarch import Option, TaskSpec, hookimpl


@hookimpl
def refarch_tasks():
    return [
        TaskSpec(
            name="{name}", summary="A task made for tests", implementation="{module}_task:Task", auto_class="AutoModel",
            new_head=True, metric="accuracy", training={{"epochs": 5}}, defaults={{"max_length": 16}},
            options=(Option(name="max_length", type="integer", default=128, minimum=2, help="tokens"),),
        )
    ]
"""
BACKBONE = """
from refarch import FamilySpec, ModelSpec, StackTable, TinyModel, hookimpl


@hookimpl
def refarch_backbones():
    return [
        FamilySpec(
            name="{name}", summary="A family made for tests", model_types=("{name}",), embedding="embed",
            head="head", stacks=(StackTable(name="encoder", layers="layers.{{}}", slots={{"ffn.up": "up[0/2]"}}),),
            tiny=TinyModel(model_type="{name}", config={{}}, auto_classes=("AutoModel",)),
        ),
        ModelSpec(name="{name}-model", summary="A model made for tests", source="{module}:folder", licence="MIT"),
    ]


def folder():
    return "somewhere/{name}"
"""
COMMAND = '''
import click
from refarch import CommandSpec, hookimpl


@hookimpl
def refarch_commands():
    return [CommandSpec(name="{name}", summary="A command made for tests", command="{module}:command")]


@click.command()
@click.argument("word")
def command(word):
    """Say a word."""
    click.echo(f"the word is {{word}}")
'''
TEMPLATES = {"technique": TECHNIQUE, "task": TASK, "backbone": BACKBONE, "command": COMMAND}


@dataclass
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


class Site:
    """A folder of installed distributions.

    Args:
        path: put on ``sys.path`` by the fixture.
        capture: pytest's.
    """

    def __init__(self, path: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capture = capture

    def install(
        self, distribution: str, entry_points: str, summary: str = "made for tests", version: str = "1.0"
    ) -> None:
        """Write a distribution's metadata; ``entry_points`` is the file's text."""
        folder = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        header = (
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\nSummary: {summary}\n\nName: a readme\n"
        )
        (folder / "METADATA").write_text(header, encoding="utf-8")
        (folder / "entry_points.txt").write_text(textwrap.dedent(entry_points), encoding="utf-8")
        forget_plugins()

    def module(self, name: str, source: str) -> None:
        """Write a module."""
        (self.path / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")

    def plugin(
        self,
        name: str,
        kind: str = "technique",
        *,
        source: str | None = None,
        distribution: str = "",
        contract: int = 1,
    ) -> str:
        """Install a plugin of one name, working unless ``source`` is given; returns its module's name."""
        distribution = distribution or f"refarch-{name}"
        module = distribution.replace("-", "_")
        text = TEMPLATES[kind].format(name=name, module=module, contract=contract) if source is None else source
        self.module(module, text)
        extra = f"{name}-model = {module}\n" if kind == "backbone" else ""
        self.install(distribution, f"[refarch.{kind}]\n{name} = {module}\n{extra}")
        return module

    def refarch(self, *arguments: str) -> Result:
        """Run the command line in this process."""
        self._capture.readouterr()
        code = main(arguments)
        captured = self._capture.readouterr()
        return Result(code, captured.out, captured.err)

    def process(self, *arguments: str, environment: Mapping[str, str] | None = None, warmed: bool = False) -> Result:
        """Run Python with this folder on its path in a process of its own; ``warmed``: one that has imported torch."""
        env = {**os.environ, "PYTHONPATH": str(self.path), **(environment or {})}
        if warmed:
            done = warm.run(arguments, self.path, env)
            return Result(done.returncode, done.stdout, done.stderr)
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env, timeout=120)
        return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Site]:
    """An empty folder for fake plugins; whatever is imported from it is forgotten after the test."""
    for name in ("REFARCH_PLUGINS", "REFARCH_BLOCK", "REFARCH_STRICT", "REFARCH_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.syspath_prepend(str(path))
    forget_plugins()
    yield Site(path, capsys)
    forget_plugins()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(path)):
            del sys.modules[name]
