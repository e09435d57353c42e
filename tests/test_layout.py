"""The house is as DESIGN.md and the README say: what is where, who imports whom, and what the core must not know."""

from __future__ import annotations

import ast
import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "core" / "src" / "refarch"
PLUGINS = sorted(path for path in (ROOT / "plugins").glob("*/*") if path.is_dir() and path.name != "__pycache__")
KINDS = {"techniques": "technique", "backbones": "backbone", "tasks": "task", "tools": "command"}
PARTS = ("architecture", "plugins", "engine", "composition", "tasks", "pipeline", "testing", "cli")
"""The core's parts; imports run from right to left."""
GENERIC = {"full", "adapter", "prefix", "prompt", "compare", "evaluate", "study"}
"""Names of plugins that are words of the field too, so that finding one in the core says nothing."""
LONGEST = 400
NO_OTHER_DOOR = "torch.utils._python_dispatch"
"""Where alone torch offers its dispatch modes, which see each operation."""

each_plugin = pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: f"{folder.parent.name}/{folder.name}")


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if not any(part.startswith(".") for part in path.parts))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Module and imported name of every import in a file, inside functions too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and value of every string literal that is no docstring."""
    module = tree(path)
    docs = {
        id(node.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def plugin_names() -> set[str]:
    groups = [project(folder)["project"].get("entry-points", {}) for folder in PLUGINS]
    names = {name for group in groups for points in group.values() for name in points}
    return names | {folder.name for folder in PLUGINS}


def test_there_are_plugins() -> None:
    assert len(PLUGINS) > 5
    assert {folder.parent.name for folder in PLUGINS} <= set(KINDS)


def test_the_requirements_list_every_package() -> None:
    lines = (ROOT / "plugins" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("-e ")] == ["-e ./dev"]
    listed = [package.folder for package in runpy.run_path(str(ROOT / "dev" / "backend.py"))["packages"]()]
    assert listed == [ROOT / "core", *PLUGINS]


def test_the_workspace_has_every_package() -> None:
    members = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["workspace"]["members"]
    found = {path for pattern in members for path in ROOT.glob(pattern) if path.is_dir()}
    assert found - {ROOT / "core"} == set(PLUGINS)
    assert ROOT / "core" in found


@each_plugin
def test_a_plugin_is_a_whole_package(folder: Path) -> None:
    metadata = project(folder)
    name, module = f"refarch-{folder.name}", f"refarch_{folder.name.replace('-', '_')}"
    assert metadata["project"]["name"] == name
    assert metadata["tool"]["flit"]["module"]["name"] == module
    assert (folder / "src" / module / "__init__.py").is_file()
    assert (folder / "src" / module / "py.typed").is_file()
    assert (folder / "README.md").read_text(encoding="utf-8").strip()
    assert list(folder.glob("tests/test_*.py")), f"{name} has no tests"
    groups = metadata["project"]["entry-points"]
    assert f"refarch.{KINDS[folder.parent.name]}" in groups
    for points in groups.values():
        assert all(target.partition(":")[0].partition(".")[0] == module for target in points.values())


@each_plugin
def test_a_plugin_imports_what_it_declares_and_what_is_public(folder: Path) -> None:
    declared = {re.split(r"[^\w.-]", text)[0].replace("-", "_") for text in project(folder)["project"]["dependencies"]}
    own = f"refarch_{folder.name.replace('-', '_')}"
    for path in sources(folder / "src"):
        for module, name in imports(path):
            package = module.partition(".")[0]
            if package.startswith("refarch_") and package != own:
                assert package in declared, f"{path}: imports {module}, but {folder.name} does not depend on it"
            if module == NO_OTHER_DOOR:
                continue
            assert not any(part.startswith("_") for part in [*module.split("."), name] if part != "__future__"), (
                f"{path}: imports the private {module}.{name}"
            )


@pytest.mark.parametrize("part", ["architecture", "plugins"])
def test_specs_and_the_loader_know_no_torch(part: str) -> None:
    heavy = {"torch", "transformers", "numpy", "accelerate", "safetensors"}
    found = [
        f"{path}: {module}"
        for path in sources(CORE / part)
        for module, _ in imports(path)
        if module.partition(".")[0] in heavy
    ]
    assert found == []


def test_imports_run_one_way() -> None:
    wrong = []
    for position, part in enumerate(PARTS):
        later = PARTS[position + 1 :]
        for path in sources(CORE / part):
            for module, name in imports(path):
                _, _, below = (f"{module}.{name}" if module == "refarch" else module).partition(".")
                if below.partition(".")[0] in later:
                    wrong.append(f"{path.relative_to(CORE)} imports {module}")
    for path in CORE.glob("*.py"):
        if path.name not in ("__init__.py", "__main__.py"):  # the two doors
            wrong += [
                f"{path.name} imports {m}" for m, _ in imports(path) if m.startswith("refarch.") and m[8:] in PARTS
            ]
    assert wrong == []


def test_the_core_names_no_plugin() -> None:
    names = plugin_names() - GENERIC
    quoted = re.compile(rf"""["']({"|".join(sorted(map(re.escape, names)))})["']""")
    found = []
    for path in sources(CORE):
        for line, value in strings(path):
            if value in names or quoted.search(value):
                found.append(f"{path.relative_to(ROOT)}:{line}: {value!r}")
    assert found == []


def test_the_core_never_asks_for_a_model_type() -> None:
    """Which model types there are is the family tables' business."""
    found = []
    for path in sources(CORE / "engine"):
        for node in ast.walk(tree(path)):
            literal = isinstance(node, ast.Compare) and any(
                isinstance(inner, ast.Constant) and isinstance(inner.value, str) for inner in ast.walk(node)
            )
            if literal and "model_type" in ast.unparse(node):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert found == []


def test_files_stay_readable() -> None:
    long = {}
    for path in [*sources(ROOT / "core"), *sources(ROOT / "plugins")]:
        count = len(path.read_text(encoding="utf-8").splitlines())
        if count > LONGEST:
            long[str(path.relative_to(ROOT))] = count
    assert long == {}
