"""Build backend of the development distribution: every first-party package in one editable wheel.

An editable package costs pip some processes to build, whatever it holds, and there are dozens. This wheel stands for
all of them. It is made of their ``pyproject.toml`` files alone, by the standard library alone, and holds

- ``dev-refarch.pth``, which puts the folder below and every package's ``src`` on the path;
- the folder ``dev-refarch`` with one ``.dist-info`` a package: name, version, dependencies and entry points, so that
  ``importlib.metadata`` (and with it refarch's loader) and pip see each package as what it is, and so that pip can
  replace or remove each alone;
- the commands of all packages.

Its own dependencies are all that the packages need from others. The packages are the members of the workspace, in the
``pyproject.toml`` at the top of the repository. Whoever adds one installs again; nothing is written beside the sources.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ALL = "all"
"""The extra with what the packages set aside need."""
WHEEL = "Wheel-Version: 1.0\nGenerator: dev-refarch\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class UnsupportedOperation(Exception):
    """PEP 517's word for what a backend does not do."""


class Package:
    """A folder with a ``pyproject.toml``: what its own build would make of the fields that are used here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        self.project: dict[str, Any] = self.settings["project"]
        self.name: str = self.project["name"]

    @property
    def dependencies(self) -> list[str]:
        return list(self.project.get("dependencies", ()))

    @property
    def extras(self) -> dict[str, list[str]]:
        return dict(self.project.get("optional-dependencies", {}))

    @property
    def points(self) -> dict[str, dict[str, str]]:
        """Entry points by group; commands are a group too."""
        scripts = {"console_scripts": self.project["scripts"]} if "scripts" in self.project else {}
        return {**scripts, **self.project.get("entry-points", {})}

    @property
    def info(self) -> str:
        """Name of its ``.dist-info``."""
        return f"{normal(self.name).replace('-', '_')}-{self.project['version']}.dist-info"


def packages(root: Path = ROOT) -> list[Package]:
    """The first-party packages. A folder without a ``pyproject.toml`` is what a checkout has left behind."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    found = [path for pattern in settings["tool"]["uv"]["workspace"]["members"] for path in sorted(root.glob(pattern))]
    return [Package(folder) for folder in found if (folder / "pyproject.toml").is_file()]


def normal(requirement: str) -> str:
    """The name in a requirement, as comparisons want it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]).lower()


def required(found: Iterable[Package], settings: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What the packages need from others: always, and only with the extra for what is set aside.

    Raises:
        ValueError: a package that is set aside does not exist.
    """
    found = list(found)
    own, aside = {normal(package.name) for package in found}, {normal(name) for name in settings["aside"]}
    if aside - own:
        raise ValueError(f"dev/pyproject.toml sets aside what is no package: {', '.join(sorted(aside - own))}")
    always: set[str] = set()
    heavy: set[str] = set()
    for package in found:
        extras = [text for name in settings["extras"] for text in package.extras.get(name, ())]
        texts = {text for text in [*package.dependencies, *extras] if normal(text) not in own}
        (heavy if normal(package.name) in aside else always).update(texts)
    return sorted(always), sorted(heavy - always)


def metadata(package: Package, dependencies: Iterable[str], extras: dict[str, list[str]]) -> str:
    """The text of ``METADATA``. The readme is left out: an editable package's would soon be an old one."""
    project = package.project
    lines = ["Metadata-Version: 2.4", f"Name: {package.name}", f"Version: {project['version']}"]
    lines += [f"Summary: {project['description']}", f"Requires-Python: {project['requires-python']}"]
    lines += [f"License-Expression: {project['license']}"] if "license" in project else []
    lines += [f"Requires-Dist: {text}" for text in dependencies]
    for extra, texts in extras.items():
        lines += [f"Provides-Extra: {extra}", *(f"Requires-Dist: {conditional(text, extra)}" for text in texts)]
    return "\n".join(lines) + "\n"


def conditional(requirement: str, extra: str) -> str:
    """A requirement that holds only with an extra."""
    what, _, marker = requirement.partition(";")
    condition = f'extra == "{extra}"'
    return f"{what.strip()} ; ({marker.strip()}) and {condition}" if marker.strip() else f"{what.strip()} ; {condition}"


def entry_points(groups: dict[str, dict[str, str]]) -> str:
    """The text of ``entry_points.txt``."""
    parts = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()]
    return "\n".join(parts)


def installed(package: Package) -> dict[str, str]:
    """Files of one package's ``.dist-info``, as an installer leaves them for an editable package."""
    files = {"METADATA": metadata(package, package.dependencies, package.extras), "INSTALLER": "dev-refarch\n"}
    files["direct_url.json"] = json.dumps({"url": package.folder.as_uri(), "dir_info": {"editable": True}})
    if package.points:
        files["entry_points.txt"] = entry_points(package.points)
    files = {f"{package.info}/{name}": text for name, text in files.items()}
    files[f"{package.info}/RECORD"] = record(files, f"{package.info}/RECORD")
    return files


def described(development: Package, found: Iterable[Package]) -> dict[str, str]:
    """The development distribution's own ``.dist-info``, but for its ``RECORD``: all needs and all commands."""
    always, heavy = required(found, development.settings["tool"]["dev-refarch"])
    commands = {k: v for package in found for k, v in package.points.get("console_scripts", {}).items()}
    return {
        f"{development.info}/METADATA": metadata(development, always, {ALL: heavy}),
        f"{development.info}/WHEEL": WHEEL,
        f"{development.info}/entry_points.txt": entry_points({"console_scripts": commands}),
    }


def contents(root: Path = ROOT) -> dict[str, str]:
    """All files of the wheel, without its ``RECORD``."""
    development, found = Package(HERE), packages(root)
    folder = development.name
    files = {f"{folder}/{path}": text for package in found for path, text in installed(package).items()}
    lines = [folder, *(str(package.folder / "src") for package in found)]
    return {f"{folder}.pth": "\n".join(lines) + "\n", **files, **described(development, found)}


def record(files: dict[str, str], own: str) -> str:
    """The text of a ``RECORD``, which lists itself without a hash."""
    return "".join(f"{line}\n" for line in [*_hashes(files), f"{own},,"])


def _hashes(files: dict[str, str]) -> Iterator[str]:
    for path, text in files.items():
        data = text.encode()
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        yield f"{path},sha256={digest},{len(data)}"


def build_editable(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """PEP 660: write the wheel, and give its name."""
    files, development = contents(), Package(HERE)
    files[f"{development.info}/RECORD"] = record(files, f"{development.info}/RECORD")
    name = f"{development.info.removesuffix('.dist-info')}-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory) / name, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name


build_wheel = build_editable
"""The packages are where they are, however this is installed."""


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """PEP 660: the wheel's ``.dist-info`` alone, with which an installer resolves."""
    development = Package(HERE)
    for path, text in described(development, packages()).items():
        file = Path(metadata_directory) / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return development.info


prepare_metadata_for_build_wheel = prepare_metadata_for_build_editable


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """PEP 517 asks for it, but this distribution is of no use away from the repository."""
    raise UnsupportedOperation("dev-refarch is never published")
