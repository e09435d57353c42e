"""The plan of the house: no circle, no arrow up, one door for plugins, a name for one thing, rooms one can look over.

What is drawn in words in ``docs/architecture.md`` stands here as data.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from house import (
    FACES,
    Floors,
    House,
    Import,
    arrows_up,
    behind_faces,
    circles,
    class_lines,
    imports,
    named_paths,
    names_of_types,
    python_files,
    several,
    shortest_way_round,
    tree,
    written_imports,
    wrong_arrows,
)

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "core" / "src" / "refarch"
PLUGINS = sorted(path for path in ROOT.glob("plugins/*/*") if (path / "pyproject.toml").is_file())
LONGEST = 370
"""Lines of a file."""
MOST_FILES = 15
"""Python files directly in one folder."""
LARGEST = {"Adaptation": 330, "Composition": 290}
"""Lines of the classes that know most."""
TERMINAL = "refarch.cli"
"""What tests may name besides the faces: they call the command line as a user does."""
TASKS_AUTHOR = ("errors", "_lazy", "architecture", "plugins")
FLOORS = {
    "refarch": Floors(
        (
            "errors _lazy _moved_names",
            "files _moved svg terminal",
            "yaml_text",
            "architecture",
            "plugins",
            "engine tasks",
            "composition pipeline testing",
            "cli",
            "__main__",
        ),
        {"tasks": TASKS_AUTHOR},
    ),
    "refarch.engine": Floors(
        ("layers", "functions", "slots", "bindings", "host checkpoints", "adaptation"), {"checkpoints": ()}
    ),
    "refarch.composition": Floors(
        ("running", "weights merge files rules parts", "composition combine", "compose judge load export")
    ),
}
"""Imports run down. What a task's author builds with knows specs and how they are found; a checkpoint's files know no
model.
"""


def _nothing(found: Collection[str] | Mapping[str, object]) -> None:
    """Fail with all that was found, a line each."""
    lines = [f"{name}: {value}" for name, value in found.items()] if isinstance(found, Mapping) else list(found)
    assert not lines, "\n  ".join([f"{len(lines)} found:", *lines])


@pytest.fixture(scope="module")
def house() -> House:
    return House(ROOT)


def _circle(house: House, members: list[str]) -> str:
    way = " -> ".join(house.shown(name) for name in shortest_way_round(members, house.arrows))
    return f"{len(members)} files reach each other; the shortest way round: {way}"


def test_no_file_imports_itself_in_the_end(house: House) -> None:
    """Imports for type checking, inside functions and of an ``__init__.py`` count."""
    _nothing([_circle(house, members) for members in circles(house.arrows)])


def test_no_room_imports_itself_in_the_end(house: House) -> None:
    """Files may be in order while their folders import each other; then neither folder can be read first."""
    found = []
    for folder in house.folders():
        rooms = house.rooms(folder)
        for members in circles(rooms):
            if any(house.is_package(f"{folder}.{room}") for room in members):
                found.append(f"{folder}: {' -> '.join(shortest_way_round(members, rooms))} ({len(members)} rooms)")
    _nothing(found)


@pytest.mark.parametrize("folder", FLOORS)
def test_no_arrow_runs_up(folder: str, house: House) -> None:
    assert folder in house.files, f"there is no {folder}"
    _nothing(wrong_arrows(house, folder, FLOORS[folder]))


def _said(path: Path, items: Iterable[Import]) -> list[str]:
    where = path.relative_to(ROOT)
    return [f"{where}:{item.line}: {item.module}" + (f" ({item.name})" if item.name else "") for item in items]


def _behind(paths: Iterable[Path], house: House, *besides: str) -> list[str]:
    allowed = (*FACES, *besides)
    return [line for path in paths for line in _said(path, behind_faces(house, imports(path), allowed))]


def test_the_faces_are_there(house: House) -> None:
    _nothing([face for face in FACES if face not in house.files])


def test_plugins_import_faces_alone(house: House) -> None:
    paths = [path for folder in PLUGINS for path in python_files(folder / "src")]
    _nothing(_behind(paths, house))


def test_plugins_name_faces_alone_in_their_specs(house: House) -> None:
    paths = [path for folder in PLUGINS for path in python_files(folder / "src")]
    _nothing([line for path in paths for line in _said(path, behind_faces(house, named_paths(path)))])


def test_plugins_tests_import_faces_alone(house: House) -> None:
    paths = [path for folder in PLUGINS for path in python_files(folder / "tests")]
    _nothing(_behind(paths, house, TERMINAL))


def test_the_documentations_scripts_import_faces_alone(house: House) -> None:
    _nothing(_behind(sorted((ROOT / "docs").glob("*.py")), house, TERMINAL))


def test_examples_import_faces_alone(house: House) -> None:
    """In the pages of the documentation, in READMEs, and in what ``refarch new`` writes."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("plugins/*/*/README.md")]
    pages += [path for path in (CORE / "templates").rglob("*") if path.is_file()]
    found = []
    for path in sorted(pages):
        found += _said(path, behind_faces(house, written_imports(path.read_text(encoding="utf-8")), (*FACES, TERMINAL)))
    _nothing(found)


def test_tests_across_plugins_import_faces_alone(house: House) -> None:
    _nothing(_behind(python_files(ROOT / "tests"), house, TERMINAL))


def test_a_class_has_a_name_of_its_own(house: House) -> None:
    """Aliases of types count: a reader of an annotation cannot tell them apart."""
    _nothing(several(names_of_types(house)))


def test_files_can_be_looked_over() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _all_files()}
    _nothing({str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > LONGEST})


def _all_files() -> list[Path]:
    return [*python_files(ROOT / "core"), *python_files(ROOT / "plugins")]


def test_folders_can_be_looked_over(house: House) -> None:
    counts: dict[Path, int] = {}
    for path in house.files.values():
        counts[path.parent] = counts.get(path.parent, 0) + 1
    _nothing({str(folder.relative_to(ROOT)): n for folder, n in counts.items() if n > MOST_FILES})


@pytest.mark.parametrize("name", LARGEST)
def test_the_classes_that_know_most_stay_small(name: str, house: House) -> None:
    assert 0 < class_lines(house, name) <= LARGEST[name]


def test_inner_rooms_have_no_face(house: House) -> None:
    """What is named twice can be imported twice; a room behind a face is entered by its files."""
    inner = [name for name in house.folders() if name.startswith(("refarch.engine.", "refarch.composition."))]
    assert inner, "engine and composition have no rooms"
    wrong = [house.shown(name) for name in inner if not _is_docstring_alone(tree(house.files[name]))]
    wrong += [str(path) for path in _without_init(CORE)]
    _nothing(wrong)


def _is_docstring_alone(module: ast.Module) -> bool:
    return len(module.body) == 1 and ast.get_docstring(module) is not None


def _without_init(folder: Path) -> list[Path]:
    """Folders of Python files that are no packages."""
    return sorted({path.parent for path in python_files(folder) if not (path.parent / "__init__.py").is_file()})


# the rules themselves -------------------------------------------------------------------------------------------------

LAZY = 'NAMES = {{"thing": "refarch.{}"}}\ndef __getattr__(name): ...\n'


def _drawn(root: Path, files: dict[str, str]) -> House:
    for name, text in {"__init__.py": "", **files}.items():
        path = root / "core" / "src" / "refarch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return House(root)


@pytest.mark.parametrize(
    ("files", "way"),
    [
        ({"a.py": "import refarch.b", "b.py": "def f():\n    from refarch.a import x"}, "a.py b.py a.py"),
        ({"a.py": "from refarch import b", "b.py": "if TYPE_CHECKING:\n    from refarch.a import X"}, "a.py b.py a.py"),
        ({"__init__.py": "from refarch.a import x", "a.py": "from refarch import x"}, "__init__.py a.py __init__.py"),
        ({"__init__.py": LAZY.format("a"), "a.py": "from refarch import thing"}, "__init__.py a.py __init__.py"),
        ({"__init__.py": "from refarch.a import x", "a.py": "from refarch import b", "b.py": ""}, ""),
        (
            {"__init__.py": "from refarch.a import b", "a.py": "from refarch import b", "b.py": ""},
            "__init__.py a.py __init__.py",
        ),
        ({"r/__init__.py": "", "r/a.py": "import refarch.b", "b.py": "from refarch.r.c import x", "r/c.py": ""}, ""),
    ],
)
def test_circles_are_found(files: dict[str, str], way: str, tmp_path: Path) -> None:
    house = _drawn(tmp_path, files)
    found = [shortest_way_round(members, house.arrows) for members in circles(house.arrows)]
    shown = [" ".join(house.shown(name).removeprefix("refarch/") for name in one) for one in found]
    assert shown == ([way] if way else [])


def test_rooms_are_seen_as_rooms(tmp_path: Path) -> None:
    files = {"r/__init__.py": "", "r/a.py": "import refarch.b", "b.py": "from refarch.r.c import x", "r/c.py": ""}
    house = _drawn(tmp_path, files)
    assert house.rooms("refarch") == {"r": {"b"}, "b": {"r"}} and arrows_up(house.rooms("refarch")) == 1
    up = "refarch/b.py (b) imports refarch/r/c.py (r)"
    assert wrong_arrows(house, "refarch", Floors(("b", "r"))) == [up]
    assert len(wrong_arrows(house, "refarch", Floors(("b r",)))) == 2
    assert wrong_arrows(house, "refarch", Floors(("b",))) == ["refarch: r stands on no floor"]
    assert wrong_arrows(house, "refarch", Floors(("b", "r c"))) == ["refarch: there is no c", up]
    assert len(wrong_arrows(house, "refarch", Floors(("b", "r"), {"r": ()}))) == 2


def test_walls_are_told_from_faces(tmp_path: Path) -> None:
    face = "from refarch.engine.attach import attach"
    house = _drawn(tmp_path, {"engine/__init__.py": face, "engine/attach.py": "", "engine/plan.py": ""})
    text = """
from refarch import engine, hookimpl
from refarch.engine import attach  # a function of the same name as its file
from refarch.engine import plan, Site
import refarch.engine.plan
    from refarch.cli import main
"""
    found = behind_faces(house, written_imports(text))
    assert [(item.line, item.module, item.name) for item in found] == [
        (4, "refarch.engine", "plan"),
        (5, "refarch.engine.plan", ""),
        (6, "refarch.cli", "main"),
    ]


def test_no_lazy_name_is_a_file_beside_it(house: House) -> None:
    """A submodule that is imported first would stand on its package where the face has a function of the same name."""
    found = []
    for face in FACES:
        path = house.files.get(face)
        if path is None or path.name != "__init__.py" or "lazy(" not in path.read_text(encoding="utf-8"):
            continue
        names = {name for item in imports(path) for name in [item.name] if name and not name.startswith("_")}
        found += [f"{face}.{name}" for name in sorted(names) if f"{face}.{name}" in house.files]
    _nothing(found)
