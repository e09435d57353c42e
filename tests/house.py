"""How the house is drawn: which file imports which, read from the source alone. Nothing of refarch is imported.

``tests/test_house.py`` holds the drawing; ``docs/house_sizes.py`` measures it, of an older checkout too.
"""

from __future__ import annotations

import ast
import functools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

Arrows = Mapping[str, set[str]]
"""For each file or room, by its dotted name, those that it imports."""

FACES = (
    "refarch",
    "refarch.architecture",
    "refarch.plugins",
    "refarch.tasks",
    "refarch.engine",
    "refarch.composition",
    "refarch.pipeline",
    "refarch.testing",
    "refarch.errors",
    "refarch.files",
    "refarch.terminal",
    "refarch.svg",
)
"""What a plugin may name of the core; every wall behind them may be moved."""


class Import(NamedTuple):
    """One imported name, or a whole module where ``name`` is empty."""

    module: str
    name: str
    line: int


def python_files(folder: Path) -> list[Path]:
    """The Python files below a folder, without those of hidden folders and templates."""
    hidden = ("__pycache__", "templates")
    return sorted(
        path
        for path in folder.rglob("*.py")
        if not any(part.startswith(".") or part in hidden for part in path.relative_to(folder).parts)
    )


@functools.cache
def tree(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def imports(path: Path) -> tuple[Import, ...]:
    """Every import of a file: under ``TYPE_CHECKING`` and inside functions too.

    Relative ones, which only helpers of tests have, name nothing of another package.
    """
    found: list[Import] = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, "", node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [Import(node.module or "", alias.name, node.lineno) for alias in node.names]
    return tuple(found)


def source_folders(root: Path) -> list[Path]:
    """The ``src`` folders of the core and of all plugins of a checkout."""
    return [root / "core" / "src", *sorted(root.glob("plugins/*/*/src"))]


class House:
    """The source files of a checkout and what they import of each other.

    Args:
        root: the checkout.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = dict(self._named(root))
        """Every source file by its dotted name; a package is its ``__init__.py``."""
        self.arrows: dict[str, set[str]] = {name: set(self._imported(name)) for name in self.files}

    @staticmethod
    def _named(root: Path) -> Iterator[tuple[str, Path]]:
        for source in source_folders(root):
            for path in python_files(source):
                parts = path.relative_to(source).with_suffix("").parts
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path

    def is_package(self, name: str) -> bool:
        """Whether a dotted name is a folder."""
        return name in self.files and self.files[name].name == "__init__.py"

    def core(self) -> Iterator[tuple[str, Path]]:
        """The core's files by their dotted names."""
        return ((name, path) for name, path in self.files.items() if name.partition(".")[0] == "refarch")

    def shown(self, name: str) -> str:
        """A file's path within the checkout's ``src`` folders: ``refarch/engine/attach.py``."""
        folder = name.replace(".", "/")
        return f"{folder}/__init__.py" if self.is_package(name) else f"{folder}.py"

    def source(self, module: str, name: str) -> str | None:
        """The file that ``from module import name`` means; None outside the house.

        A name that a package's ``__init__.py`` brings from elsewhere is the package's; else it may be a file.
        """
        inner = f"{module}.{name}"
        if name and inner in self.files and name not in self.brought(module):
            return inner
        return module if module in self.files else None

    @functools.cache  # noqa: B019 - a house lives as long as the process
    def brought(self, package: str) -> frozenset[str]:
        """The names that a package's ``__init__.py`` imports from elsewhere, at once or when they are first used."""
        if not self.is_package(package):
            return frozenset()
        path = self.files[package]
        names = {item.name for item in imports(path) if item.name and item.module != package}
        return frozenset(names | (_strings(path) if _is_lazy(path) else set()))

    def _imported(self, name: str) -> Iterator[str]:
        for item in imports(self.files[name]):
            found = self.source(item.module, item.name)
            if found is not None and found != name:
                yield found
        if self.is_package(name) and _is_lazy(self.files[name]):
            yield from (text for text in _strings(self.files[name]) if text in self.files and text != name)

    # rooms -----------------------------------------------------------------------------------------------------------

    def folders(self) -> list[str]:
        """Every folder, by its dotted name."""
        return [name for name in self.files if self.is_package(name)]

    def rooms(self, folder: str) -> dict[str, set[str]]:
        """The files and folders directly in a folder, without its ``__init__.py``, and which imports which."""
        found: dict[str, set[str]] = {}
        for name, imported in self.arrows.items():
            room = _room(folder, name)
            if room:
                arrows = found.setdefault(room, set())
                arrows.update(
                    there for there in (_room(folder, other) for other in imported) if there not in ("", room)
                )
        return found


def _room(folder: str, name: str) -> str:
    """In which room of a folder a file is; empty for none, and for the folder's own ``__init__.py``."""
    return name.removeprefix(f"{folder}.").partition(".")[0] if name.startswith(f"{folder}.") else ""


def _is_lazy(path: Path) -> bool:
    """Whether an ``__init__.py`` imports names when they are first used."""
    return any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree(path).body)


def _strings(path: Path) -> set[str]:
    nodes = ast.walk(tree(path))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


# circles and floors ---------------------------------------------------------------------------------------------------


def circles(arrows: Arrows) -> list[list[str]]:
    """The sets of two and more that all reach each other, the largest first (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in sorted(arrows.get(name, ())):
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            members = stack[stack.index(name) :]
            del stack[-len(members) :]
            if len(members) > 1:
                found.append(sorted(members))

    for name in sorted(arrows):
        if name not in order:
            visit(name)
    return sorted(found, key=lambda members: (-len(members), members))


def shortest_way_round(members: Iterable[str], arrows: Arrows) -> list[str]:
    """The shortest circle among some files, closed: its first is its last."""
    inside = set(members)
    found = [_way_home(start, inside, arrows) for start in sorted(inside)]
    return min((way for way in found if way), key=len)


def _way_home(start: str, inside: set[str], arrows: Arrows) -> list[str]:
    ways: deque[list[str]] = deque([[start]])
    seen: set[str] = set()
    while ways:
        way = ways.popleft()
        for other in sorted(arrows.get(way[-1], set()) & inside):
            if other == start:
                return [*way, start]
            if other not in seen:
                seen.add(other)
                ways.append([*way, other])
    return []


def arrows_up(arrows: Arrows) -> int:
    """How many arrows of a drawing run up, in the order in which the fewest do that a search finds.

    Only arrows within a circle can; each circle is put into an order by moving one member at a time.
    """
    total = 0
    for members in circles(arrows):
        pairs = [(name, other) for name in members for other in arrows[name] if other in members]
        total += _fewest_up(members, pairs)
    return total


def _fewest_up(members: list[str], pairs: list[tuple[str, str]]) -> int:
    def up(order: list[str]) -> int:
        floor = {name: number for number, name in enumerate(order)}
        return sum(floor[name] < floor[other] for name, other in pairs)

    imported = {name: sum(other == name for _, other in pairs) for name in members}
    order = sorted(members, key=lambda name: (-imported[name], name))
    best, better = up(order), True
    while better:
        better = False
        for name in members:
            rest = [other for other in order if other != name]
            tries = [[*rest[:place], name, *rest[place:]] for place in range(len(order))]
            chosen = min(tries, key=up)
            if up(chosen) < best:
                order, best, better = chosen, up(chosen), True
    return best


class Floors(NamedTuple):
    """The declared order of a folder's rooms."""

    order: tuple[str, ...]
    """From the ground up; rooms of one floor, which do not import each other, stand in one text."""
    only: Mapping[str, tuple[str, ...]] = {}
    """Rooms that may import fewer than all below them."""


def wrong_arrows(house: House, folder: str, floors: Floors) -> list[str]:
    """What of a folder is not as its floors are declared, in words."""
    floor = {room: number for number, rooms in enumerate(floors.order) for room in rooms.split()}
    rooms = house.rooms(folder)
    where = folder.replace(".", "/")
    found = [f"{where}: {room} stands on no floor" for room in sorted(rooms.keys() - floor.keys())]
    found += [f"{where}: there is no {room}" for room in sorted(floor.keys() - rooms.keys())]
    for name, imported in sorted(house.arrows.items()):
        room = _room(folder, name)
        for other in sorted(imported):
            there = _room(folder, other)
            if room in floor and there in floor and room != there:
                allowed = floor[there] < floor[room] and there in floors.only.get(room, (there,))
                found += [] if allowed else [f"{house.shown(name)} ({room}) imports {house.shown(other)} ({there})"]
    return found


# faces ----------------------------------------------------------------------------------------------------------------

_STATEMENT = re.compile(
    r"^\s*(?:from\s+(refarch(?:\.\w+)*)\s+import\s+(.+)|import\s+(refarch(?:\.\w+)*))", re.MULTILINE
)
_PATH = re.compile(r"refarch(?:\.\w+)+(?::\w+(?:\.\w+)*)?")


def behind_faces(house: House, items: Iterable[Import], allowed: Iterable[str] = FACES) -> Iterator[Import]:
    """The imports that name a file of the core behind its faces."""
    faces = set(allowed)
    for item in items:
        if item.module.partition(".")[0] != "refarch":
            continue
        found = house.source(item.module, item.name)
        if item.module not in faces or (found not in faces and found is not None):
            yield item


def written_imports(text: str) -> list[Import]:
    """The imports of refarch in a text that is not all Python: a page of the documentation, a template."""
    found = []
    for match in _STATEMENT.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        module, names = match[1] or match[3], (match[2] or "").partition("#")[0]
        found += [Import(module, name.split()[0], line) for name in names.strip("() \n").split(",") if name.strip()]
        found += [] if match[2] else [Import(module, "", line)]
    return found


def named_paths(path: Path) -> list[Import]:
    """The import paths of the core that a file has as texts: ``refarch.engine.function:LowRank``."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _PATH.fullmatch(node.value):
            module, _, name = node.value.partition(":")
            found.append(Import(module, name, node.lineno))
    return found


# definitions ----------------------------------------------------------------------------------------------------------


def names_of_types(house: House) -> dict[str, list[str]]:
    """The files of the core that define each public class or alias of a type at their top level, by its name."""
    return _defined(house, lambda node: [*_classes(node), *_aliases(node)])


def names_of_functions(house: House) -> dict[str, list[str]]:
    """The same of functions."""
    return _defined(house, lambda node: [node.name] if isinstance(node, ast.FunctionDef) else [])


def _defined(house: House, names: Callable[[ast.stmt], list[str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, path in house.core():
        for node in tree(path).body:
            for defined in names(node):
                if not defined.startswith("_"):
                    found.setdefault(defined, []).append(house.shown(name))
    return found


def _classes(node: ast.stmt) -> list[str]:
    return [node.name] if isinstance(node, ast.ClassDef) else []


def _aliases(node: ast.stmt) -> list[str]:
    """Names that are written as those of classes are: ``Names = Mapping[str, str]``."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if name[0].isupper() and any(letter.islower() for letter in name)]


def several(found: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Those that several files define."""
    return {name: files for name, files in sorted(found.items()) if len(files) > 1}


def class_lines(house: House, name: str) -> int:
    """The lines of file that a class of the core takes; 0 if there is none of that name."""
    for _, path in house.core():
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return (node.end_lineno or node.lineno) - node.lineno + 1
    return 0
