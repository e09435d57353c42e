from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
import warm

from refarch.cli.family_source import source
from refarch.cli.new import class_name
from refarch.plugins import default_registry
from refarch.plugins.discovery import GROUPS

STARTS = {
    "technique": [],
    "rescaling": ["--example", "rescaling"],
    "backbone": ["--model-type", "bert"],
    "task": [],
    "command": [],
    "observer": [],
}
"""What is generated in these tests, and with which options; ``rescaling`` is the technique's other example."""


def kind_of(start: str) -> str:
    return start if start in GROUPS else "technique"


def generate(site: Any, start: str, folder: Path, name: str = "quokka-hop", *more: str) -> dict[str, Any]:
    arguments = ["new", kind_of(start), name, "--out", str(folder), "--json", *STARTS[start], *more]
    done = site.refarch(*arguments)
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


def put_on_the_path(site: Any, folder: Path) -> None:
    """As an installation would: the modules, and the metadata that the project file stands for."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for module in (folder / "src").iterdir():
        module.rename(site.path / module.name)
    points = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    site.install(project["name"], "\n".join(points), project["description"], project["version"])


@pytest.mark.parametrize("start", STARTS)
def test_what_is_written_loads(site: Any, tmp_path: Path, start: str) -> None:
    written = generate(site, start, tmp_path / "it", "quokka-hop", "--summary", 'Says "hop" \\ jumps')
    assert sorted(written["files"]) == sorted(
        path.relative_to(tmp_path / "it").as_posix() for path in (tmp_path / "it").rglob("*") if path.is_file()
    )
    assert {"README.md", "pyproject.toml", "src/refarch_quokka_hop/py.typed", "tests/test_quokka_hop.py"} <= set(
        written["files"]
    )
    put_on_the_path(site, tmp_path / "it")
    rows = json.loads(site.refarch("list-plugins", "--json", "--kind", kind_of(start)).out)
    row = next(row for row in rows if row["name"] == "quokka-hop")
    assert row["status"] == "ok" and row["summary"] == 'Says "hop" \\ jumps'
    registry = default_registry()
    loaded = registry.load(registry.find(row["kind"], "quokka-hop"))
    if start != "observer":
        assert loaded.spec is not None and loaded.spec.summary == 'Says "hop" \\ jumps'  # type: ignore[attr-defined]


def test_the_technique_passes_the_kit_where_it_lies(site: Any, tmp_path: Path) -> None:
    generate(site, "rescaling", tmp_path / "it")
    put_on_the_path(site, tmp_path / "it")
    done = site.refarch("check", "quokka-hop", "--family", "bert", "--exempt", "light_import=not on a process's path")
    assert done.code == 0, done.out
    assert "passed: " in done.out


def test_the_project_file_says_who_and_under_which_licence(site: Any, tmp_path: Path) -> None:
    generate(site, "task", tmp_path / "it", "quokka", "--author", "Ada Lovelace <ada@example.org>", "--licence", "MIT")
    project = tomllib.loads((tmp_path / "it" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["authors"] == [{"name": "Ada Lovelace", "email": "ada@example.org"}]
    assert project["license"] == "MIT"
    assert "Licence: MIT" in (tmp_path / "it" / "README.md").read_text(encoding="utf-8")


def test_a_backbone_is_the_table_of_its_model_type(site: Any, tmp_path: Path) -> None:
    written = generate(site, "backbone", tmp_path / "it", "quokka")
    assert "attaching to such a model is refused while both are installed" in written["warnings"][0]
    put_on_the_path(site, tmp_path / "it")
    family, origin = (default_registry().backbone(name) for name in ("quokka", "bert"))
    assert family.model_copy(update={"name": "bert", "summary": origin.summary}) == origin


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_source_makes_the_same_table(name: str) -> None:
    import refarch

    space: dict[str, Any] = vars(refarch).copy()
    space |= {key: getattr(refarch, key) for key in ("FamilySpec", "StackTable", "TinyModel")}
    family = default_registry().backbone(name)
    exec(source(family), space)  # type: ignore[arg-type]
    assert space["FAMILY"] == family


def test_a_table_may_come_from_a_file(site: Any, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    table.write_text(default_registry().backbone("t5").to_json(), encoding="utf-8")
    done = site.refarch("new", "backbone", "quokka", "--table", str(table), "--out", str(tmp_path / "it"))
    assert done.code == 0, done.err
    table.write_text('{"name": "x"}', encoding="utf-8")
    done = site.refarch("new", "backbone", "quokka", "--table", str(table), "--out", str(tmp_path / "other"))
    assert done.code == 2 and "holds no family's table" in done.err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["technique", "Quokka_Hop"], "for example 'quokka-hop'"),
        (["technique", "quokka-"], "for example 'quokka'"),
        (["technique", "4ever"], "choose another name"),
        (["technique", "q" * 51], "50 characters"),
        (["command", "run"], "could never be used"),
        (["gadget", "quokka"], "'gadget' is not one of"),
        (["backbone", "quokka"], "--model-type"),
        (["backbone", "quokka", "--model-type", "no-such-type"], "no installed family serves"),
        (["task", "quokka", "--model-type", "bert"], "are for a backbone"),
        (["task", "quokka", "--example", "low-rank"], "this is a task"),
        (["task", "quokka", "--summary", "two\nlines"], "one line"),
        (["task", "quokka", "--summary", "x" * 121], "121 characters"),
        (["task", "quokka", "--author", "Ada <nowhere>"], "Name <address>"),
        (["task", "quokka", "--licence", 'MIT"'], "SPDX"),
    ],
)
def test_wrong_use_writes_nothing(site: Any, tmp_path: Path, arguments: list[str], said: str) -> None:
    done = site.refarch("new", *arguments, "--out", str(tmp_path / "it"))
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "it").exists()


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_nothing_that_exists_is_overwritten(site: Any, tmp_path: Path, make: Any) -> None:
    make(tmp_path / "it")

    def found() -> tuple[int, ...]:
        is_now = (tmp_path / "it").lstat()  # when it was last looked at does not count
        return is_now.st_mode, is_now.st_ino, is_now.st_size, is_now.st_mtime_ns, is_now.st_ctime_ns

    before = found()
    done = site.refarch("new", "task", "quokka", "--out", str(tmp_path / "it"))
    assert done.code == 2 and "exists already" in done.err
    assert found() == before
    assert [path.name for path in tmp_path.iterdir() if path.name != "site"] == ["it"]


def test_a_folder_that_cannot_be_written_is_an_error_in_words(site: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = site.refarch("new", "task", "quokka", "--out", str(tmp_path / "file" / "it"))
    assert done.code == 1 and "could not write" in done.err


def test_the_folder_is_named_after_the_distribution(site: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    done = site.refarch("new", "observer", "quokka")
    assert done.code == 0 and "pip install -e 'refarch-quokka[test]'" in done.out
    assert (tmp_path / "refarch-quokka" / "pyproject.toml").is_file()
    assert (tmp_path / "refarch-quokka").stat().st_mode & 0o755 == 0o755


def test_a_name_that_is_taken_is_warned_of(site: Any, tmp_path: Path) -> None:
    site.plugin("quokka", "task")
    done = site.refarch("new", "task", "quokka", "--out", str(tmp_path / "it"))
    assert done.code == 0
    assert "refarch-quokka provides a task 'quokka' too" in done.err
    assert "takes its place" in done.err
    done = site.refarch("new", "command", "quokka", "--out", str(tmp_path / "other"))
    assert "provides" not in done.err and "takes its place" in done.err


@pytest.mark.parametrize(
    ("name", "expected"), [("my-2nd-try", "My2ndTry"), ("task", "TaskPlugin"), ("none", "NonePlugin")]
)
def test_class_names_are_names_that_are_free(name: str, expected: str) -> None:
    assert class_name(name) == expected


class Environment:
    """A virtual environment that sees what this one has, and can be installed into."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
        self.python = folder / "bin" / "python"
        found = subprocess.run(
            [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        )
        here = sysconfig.get_path("purelib")
        (Path(found.stdout.strip()) / "outer.pth").write_text(f"import site; site.addsitedir({here!r})\n")
        self.server = warm.Server(self.python)

    def run(self, *arguments: str, cwd: Path, plugins: str, warmed: bool = False) -> str:
        env = {**{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}, "REFARCH_PLUGINS": plugins}
        if warmed:
            done = warm.run(arguments, cwd, env, self.server)
        else:
            command = [str(self.python), *arguments]
            done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{arguments}:\n{done.stdout[-6000:]}{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: Any) -> Environment:
    return Environment(tmp_path_factory.mktemp("venv") / "venv")


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS)
def test_what_is_written_installs_and_passes_its_tests(
    site: Any, tmp_path: Path, environment: Environment, start: str
) -> None:
    name, package = f"quokka-{start}", tmp_path / "package"
    written = generate(site, start, package, name)
    plugins = f"{name},bert,gpt2" if kind_of(start) == "technique" else f"{name},bert"
    install = "-m pip install --quiet --no-deps --no-build-isolation --disable-pip-version-check ."
    environment.run(*install.split(), cwd=package, plugins=plugins)
    rows = json.loads(
        environment.run("-m", "refarch", "list-plugins", "--json", "--check", cwd=tmp_path, plugins=plugins)
    )
    row = next(row for row in rows if row["name"] == name)
    assert (row["kind"], row["status"], row["distribution"]) == (kind_of(start), "ok", written["distribution"])
    said = environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=package, plugins=plugins, warmed=True)
    assert " passed" in said.splitlines()[-1] and "failed" not in said.splitlines()[-1]
