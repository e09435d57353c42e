"""What each cell of the conformance matrix runs on, as digests, and which techniques and families a change touches.

A cell is a technique on a family. What it shows follows from the code of the technique's package and of the packages
that it is made from, of the family's package, from the options in the technique's own tests, from the kit's checks, and
from the core. A digest is of code: comments, docstrings, formatting and where in the core a name is imported from do
not change it, and neither does moving a file of the core.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"techniques": "refarch.technique", "backbones": "refarch.backbone"}
KIT = Path("core/src/refarch/testing")
CORE = Path("core/src/refarch")
NO_ENGINE = ("testing", "cli", "templates")
"""Rooms of the core that no cell runs through; the kit has a digest of its own."""
PLUGIN = "plugin"
"""The column of the checks that are about a technique alone, on no one family."""


class Package(NamedTuple):
    """A plugin package of techniques or families."""

    folder: Path
    kind: str
    names: tuple[str, ...]
    """The techniques or families that it declares."""
    needs: tuple[str, ...]
    """Distributions of other plugins that it is made from."""


@dataclass
class Own:
    """What a technique's own conformance class on all families says."""

    options: dict[str, Any] = field(default_factory=dict)
    exempt: dict[str, str] = field(default_factory=dict)


def own_tests(root: Path = ROOT) -> dict[str, Own]:
    """The first such class of each technique, by the technique's name; read without importing it."""
    found: dict[str, Own] = {}
    for path in sorted(root.glob("plugins/techniques/*/tests/test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.ClassDef) or "TechniqueConformance" not in map(ast.unparse, node.bases):
                continue
            said = dict(_said(node))
            if isinstance(said.get("technique"), str) and "families" not in said:
                exempt = {name.removeprefix("test_"): why for name, why in said.get("exempt", {}).items()}
                found.setdefault(said["technique"], Own(said.get("options", {}), exempt))
    return found


def _said(node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    """The plain values that a conformance class assigns."""
    for item in node.body:
        target = item.targets[0] if isinstance(item, ast.Assign) else getattr(item, "target", None)
        if isinstance(target, ast.Name) and target.id in ("technique", "exempt", "options", "families"):
            try:
                yield target.id, ast.literal_eval(item.value)  # type: ignore[attr-defined]
            except ValueError:
                continue


def packages(root: Path = ROOT) -> dict[str, Package]:
    """The plugins of techniques and families, by their distribution's name."""
    found = {}
    for kind, group in KINDS.items():
        for path in sorted(root.glob(f"plugins/{kind}/*/pyproject.toml")):
            project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
            names = tuple(project.get("entry-points", {}).get(group, {}))
            needs = tuple(re.split(r"[^\w.-]", text)[0] for text in project["dependencies"])
            found[project["name"]] = Package(path.parent, kind, names, needs)
    return found


@dataclass
class Digests:
    """What cells run on now. Looks at each source once."""

    root: Path = ROOT

    @functools.cached_property
    def packages(self) -> dict[str, Package]:
        """The plugins, by distribution."""
        return packages(self.root)

    @functools.cached_property
    def own(self) -> dict[str, Own]:
        """What the techniques' own tests say."""
        return own_tests(self.root)

    @functools.cached_property
    def by_name(self) -> dict[tuple[str, str], str]:
        """The digest of each plugin with all that it is made from, by kind and name."""
        found = {}
        for distribution, package in self.packages.items():
            sources = [path for name in self._made_from(distribution) for path in self._sources(name)]
            digest = _together(map(of_file, sources))
            for name in package.names:
                said = asdict(self.own.get(name, Own())) if package.kind == "techniques" else {}
                found[package.kind, name] = _together([digest, repr(sorted(said.items()))])
        return found

    @functools.cached_property
    def kit(self) -> str:
        """The digest of the checks."""
        return _together(sorted(map(of_file, self.root.joinpath(KIT).rglob("*.py"))))

    @functools.cached_property
    def core(self) -> str:
        """The digest of the rooms of the core that a cell runs through."""
        core = self.root / CORE
        rooms = [path for path in core.rglob("*.py") if path.relative_to(core).parts[0] not in NO_ENGINE]
        return _together(sorted(map(of_file, rooms)))

    def cell(self, technique: str, family: str) -> dict[str, str]:
        """What a cell runs on: a digest for each of what it consists of."""
        where = {} if family == PLUGIN else {"family": self.by_name.get(("backbones", family), "")}
        return {
            "technique": self.by_name.get(("techniques", technique), ""),
            **where,
            "kit": self.kit,
            "core": self.core,
        }

    def _made_from(self, distribution: str) -> list[str]:
        """The distribution and, in turn, the other plugins that it depends on."""
        found = [distribution]
        for name in found:
            found += [need for need in self.packages[name].needs if need in self.packages and need not in found]
        return found

    def _sources(self, distribution: str) -> list[Path]:
        return sorted(self.packages[distribution].folder.glob("src/**/*.py"))


def of_file(path: Path) -> str:
    """The digest of a Python file's code."""
    return of_code(path.read_text(encoding="utf-8"))


def of_code(text: str) -> str:
    """The digest of Python code without docstrings, comments, formatting and imports from the core."""
    return hashlib.sha256("\n".join(_code(ast.parse(text))).encode()).hexdigest()[:16]


def _code(node: Any) -> Iterator[str]:
    """What a syntax tree says, the same in each version of Python (``ast.dump`` is not)."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "refarch":
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            if value not in (None, []) and name != "type_comment":
                yield f".{name}"
                yield from _code(value)
        yield ")"
    elif isinstance(node, list):
        for item in node:
            yield from _code(item)
        yield "]"
    else:
        yield repr(node)


def _together(digests: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]


def touched(ref: str, root: Path = ROOT) -> tuple[set[str], bool]:
    """The techniques and families whose code differs from a commit's, and whether the core's does.

    A package that is made from another one is touched with it. The working tree counts, with files that git does not
    know yet.

    Args:
        ref: the commit to compare with.
        root: the repository.

    Raises:
        subprocess.CalledProcessError: there is no such commit here, or no repository.
    """
    differs = [path for path in _changed(ref, root) if path.endswith(".py") and _differs(ref, path, root)]
    digests = Digests(root)
    names: set[str] = set()
    for distribution, package in digests.packages.items():
        folders = [
            digests.packages[name].folder.relative_to(root).as_posix() for name in digests._made_from(distribution)
        ]
        if any(path.startswith(f"{folder}/") for path in differs for folder in folders):
            names |= set(package.names)
    return names, any(path.startswith(f"{CORE.as_posix()}/") for path in differs)


def _changed(ref: str, root: Path) -> list[str]:
    """Files that differ from a commit's, those that are new or gone too."""
    tracked = _git(root, "diff", "--name-only", "--no-renames", ref, "--")
    return [*tracked.splitlines(), *_git(root, "ls-files", "--others", "--exclude-standard").splitlines()]


def _differs(ref: str, path: str, root: Path) -> bool:
    """Whether a file's code differs, not its words alone."""
    try:
        before, now = _git(root, "show", f"{ref}:{path}"), root.joinpath(path).read_text(encoding="utf-8")
        return of_code(before) != of_code(now)
    except (subprocess.CalledProcessError, OSError, SyntaxError):
        return True


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
