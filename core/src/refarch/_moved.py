"""Import paths of before go on working: a name is found where it is now, with a warning that says where that is.

Until the core had rooms and faces, each of its files could be imported from outside. A module that is gone is made
anew, thin, when it is imported; one that is still there and lost names, or files beside it, finds those. Which name is
where is data (:mod:`refarch._moved_names`); ``core/tests/test_moved.py`` holds it against all names that there were.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

from refarch._moved_names import GONE, MOVED

_PACKAGES = {module.rpartition(".")[0] for module in MOVED}
"""Packages that lost modules."""


class Moved(ModuleType):
    """A module that lost names."""

    def __getattr__(self, name: str) -> Any:
        new = _new_home(self.__name__, name)
        if new is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        value = _import(*new)
        warnings.warn(
            f"{self.__name__}.{name} is deprecated; write 'from {_face(*new, value)} import {new[1]}'",
            DeprecationWarning,
            stacklevel=2,
        )
        return value

    def __setattr__(self, name: str, value: object) -> None:
        """Keep a module that is gone from standing where a function of its name is (``refarch.engine.attach``)."""
        if not (isinstance(value, Thin) and name in getattr(self, "__all__", ())):
            super().__setattr__(name, value)


class Thin(Moved):
    """A module that is gone."""

    @property
    def __all__(self) -> list[str]:
        return [entry.partition("=")[0] for names in MOVED[self.__name__].values() for entry in names.split()]

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *self.__all__])


def _new_home(module: str, name: str) -> tuple[str, str] | None:
    """The module where a name is now, and its name there.

    Raises:
        ImportError: nothing took its place, with what there is instead.
    """
    if name in GONE.get(module, {}):
        raise ImportError(f"{module}.{name} is gone: {GONE[module][name]}", name=module)
    for home, names in MOVED.get(module, {}).items():
        for entry in names.split():
            old, _, new = entry.partition("=")
            if old == name:
                return home, new or old
    return None


def _import(home: str, name: str) -> Any:
    package = home.partition(".")[0]
    try:
        return getattr(importlib.import_module(home), name)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        distribution = package.replace("_", "-")
        raise ImportError(
            f"{name} is now in {home}, which comes with {distribution}: pip install {distribution}"
        ) from None


def _face(home: str, name: str, value: object) -> str:
    """The face that exports a name, since what stands behind faces may move again; else where it is."""
    for face in ("refarch", ".".join(home.split(".")[:2])):
        module = importlib.import_module(face)
        if name in getattr(module, "__all__", ()) and getattr(module, name) is value:
            return face
    return home


class _ThinLoader:
    """Makes a module that is gone."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Thin(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to execute."""


class _LossLoader(SourceFileLoader):
    """Loads a module that is still there, and lets it find what it lost."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        module.__class__ = Moved


class Finder:
    """Finds modules that are gone or lost something; asked before python's own finders, which see no loss."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """What :class:`importlib.abc.MetaPathFinder` asks for."""
        if name not in MOVED and name not in _PACKAGES:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is None and name in MOVED:
            return ModuleSpec(name, _ThinLoader(), is_package=name in _PACKAGES)  # type: ignore[arg-type]
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _LossLoader(name, spec.loader.path)
        return spec


def install() -> None:
    """Let python ask the finder; once."""
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)
