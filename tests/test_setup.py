"""The development distribution: one install, and every first-party package is there as its own build would have it."""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from flit_core import buildapi
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
FIELDS = ("Name", "Version", "Summary", "Requires-Python", "License-Expression", "Provides-Extra")
READ = """
import json
from importlib import metadata

found = {}
for one in metadata.distributions():
    points = {(p.group, p.name): p.value for p in one.entry_points}
    url = json.loads(one.read_text("direct_url.json") or "{}").get("url", "")
    row = [one.version, one.requires or [], sorted([*key, value] for key, value in points.items()), url]
    assert found.setdefault(one.metadata["Name"], row) is row, "twice: " + one.metadata["Name"]
print(json.dumps(found))
"""


def _backend() -> Any:
    spec = importlib.util.spec_from_file_location("dev_backend", ROOT / "dev" / "backend.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


backend = _backend()
PACKAGES = backend.packages()
SETTINGS = backend.Package(ROOT / "dev").settings["tool"]["dev-refarch"]


def points(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return {group: dict(parser[group]) for group in parser.sections()}


def fields(message: Message) -> dict[str, Any]:
    requirements = {(Requirement(text), str(Requirement(text))) for text in message.get_all("Requires-Dist", ())}
    return {name: message.get_all(name) for name in FIELDS} | {"needs": requirements}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_metadata_is_that_of_the_packages_own_build(package: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(package.folder)
    info = tmp_path / buildapi.prepare_metadata_for_build_editable(str(tmp_path))
    ours = {Path(path).name: text for path, text in backend.installed(package).items()}
    assert {Path(path).parts[0] for path in backend.installed(package)} == {info.name}
    theirs = Parser().parsestr((info / "METADATA").read_text(encoding="utf-8"))
    assert fields(Parser().parsestr(ours["METADATA"])) == fields(theirs)
    written = info / "entry_points.txt"
    assert points(ours.get("entry_points.txt", "")) == points(written.read_text() if written.is_file() else "")


def test_one_distribution_needs_what_all_packages_need_of_others() -> None:
    own = {package.name for package in PACKAGES}
    always, heavy = (set(texts) for texts in backend.required(PACKAGES, SETTINGS))
    for package in PACKAGES:
        needs = {text for text in package.dependencies if backend.normal(text) not in own}
        if package.name in SETTINGS["aside"]:
            assert needs <= always | heavy
            assert needs & heavy, f"{package.name} needs nothing that the others do not need: list it no longer"
        else:
            assert needs <= always
    assert not {backend.normal(text) for text in always | heavy} & own
    with pytest.raises(ValueError, match="no package: refarch-nothing"):
        backend.required(PACKAGES, {**SETTINGS, "aside": ["refarch-nothing"]})


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [("a>=1", 'a>=1 ; extra == "x"'), ("a ; b == 'c'", "a ; (b == 'c') and extra == \"x\"")],
)
def test_a_requirement_of_an_extra_keeps_its_own_condition(requirement: str, expected: str) -> None:
    assert backend.conditional(requirement, "x") == expected


def test_a_wheel_records_each_of_its_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / backend.build_editable(str(tmp_path))) as wheel:
        names = wheel.namelist()
        listed = wheel.read("dev_refarch-0.dist-info/RECORD").decode().splitlines()
    assert len(set(names)) == len(names)
    assert [line.split(",")[0] for line in listed] == names
    assert backend.prepare_metadata_for_build_editable(str(tmp_path)) == "dev_refarch-0.dist-info"
    for name in ("METADATA", "WHEEL", "entry_points.txt"):
        assert (tmp_path / "dev_refarch-0.dist-info" / name).is_file()
    with pytest.raises(backend.UnsupportedOperation):
        backend.build_sdist(str(tmp_path))


def test_uv_finds_here_what_packages_here_need() -> None:
    sources = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["sources"]
    own = {package.name for package in PACKAGES}
    needed = {backend.normal(text) for package in PACKAGES for text in package.dependencies} & own
    assert sources == {name: {"workspace": True} for name in sorted(needed)}, "pyproject.toml, tool.uv.sources"


def test_torch_is_pinned_for_development_alone() -> None:
    lines = (ROOT / "plugins" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("torch")] == ["torch==2.13.0"]
    for package in PACKAGES:
        assert not any(re.match(r"torch\s*==", text) for text in package.dependencies), package.name


class Environment:
    """A new virtual environment with pip alone, where no index is reached."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300)
        self.bin = folder / "bin"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        self.variables = {**kept, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_QUIET": "1"}
        self.variables |= {"PYTHONDONTWRITEBYTECODE": "1"}  # of the backend, beside it

    def run(self, program: str, *arguments: str) -> str:
        command = [str(self.bin / program), *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def found(self) -> dict[str, Any]:
        return json.loads(self.run("python", "-c", READ))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: Any) -> Environment:
    made = Environment(tmp_path_factory.mktemp("venv") / "venv")
    before = listing()
    made.run("pip", "install", "--no-deps", "-e", "./dev")
    assert listing() == before, "the build wrote beside the sources"
    return made


def listing() -> list[str]:
    folders = [ROOT / "dev", *(package.folder for package in PACKAGES)]
    return sorted(str(path) for folder in folders for path in folder.iterdir() if path.name != "__pycache__")


@pytest.mark.slow
def test_every_package_is_installed_as_itself(environment: Environment) -> None:
    found = environment.found()
    for package in PACKAGES:
        version, needs, announced, url = found[package.name]
        assert version == package.project["version"]
        assert [text for text in needs if "extra ==" not in text] == package.dependencies
        wanted = [[group, k, v] for group, values in package.points.items() for k, v in values.items()]
        assert announced == sorted(wanted)
        assert url == package.folder.as_uri()
    modules = [package.settings["tool"]["flit"]["module"]["name"] for package in PACKAGES]
    asked = f"from importlib.util import find_spec as f; print([m for m in {modules} if not f(m)])"
    assert environment.run("python", "-c", asked).strip() == "[]"
    assert (environment.bin / "refarch").is_file()


@pytest.mark.slow
def test_one_package_can_be_removed_and_comes_back(environment: Environment) -> None:
    environment.run("pip", "uninstall", "--yes", "refarch-lora")
    assert "refarch-lora" not in environment.found()
    environment.run("pip", "install", "--no-deps", "-e", "./dev")
    assert "refarch-lora" in environment.found()


@pytest.mark.slow
def test_a_package_of_its_own_takes_the_place_of_ours(
    environment: Environment, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(ROOT / "plugins" / "techniques" / "lora")
    wheel = buildapi.build_wheel(str(tmp_path))
    environment.run("pip", "install", "--no-deps", str(tmp_path / wheel))
    where = "from importlib.util import find_spec; print(find_spec('refarch_lora').origin)"
    assert "site-packages" in environment.run("python", "-c", where)
    assert (
        environment.found()["refarch-lora"][3] != (ROOT / "plugins/techniques/lora").as_uri()
    )  # once: READ asserts it
    environment.run("pip", "uninstall", "--yes", "refarch-lora")
    environment.run("pip", "install", "--no-deps", "-e", "./dev")
    assert str(ROOT) in environment.run("python", "-c", where)
    environment.run("pip", "uninstall", "--yes", "dev-refarch")
    assert not [name for name in environment.found() if "refarch" in name]
