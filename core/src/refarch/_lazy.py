"""The faces of packages: names that are imported when they are first used.

A face's table says in which module each of its names is defined, as ``{module: "name name"}``. The same names stand
below ``TYPE_CHECKING``, for type checkers and readers; ``tests/test_house.py`` holds the two against each other.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any


def names(sources: Mapping[str, str]) -> list[str]:
    """What a face exports, in order."""
    return sorted(name for own in sources.values() for name in own.split())


def lazy(module: str, name: str, sources: Mapping[str, str]) -> Any:
    """Import ``name`` from where ``sources`` says it lives and keep it on ``module``.

    Raises:
        AttributeError: the module has no such name.
        ImportError: it says that it has, and importing it fails.
    """
    source = next((source for source, own in sources.items() if name in own.split()), None)
    if source is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(source), name)
    except AttributeError as error:  # which would read as if there were no such name
        raise ImportError(f"{module} has {name} from {source}, which failed: {error}", name=source) from error
    setattr(sys.modules[module], name, value)
    return value
