"""Module attributes that are imported when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any


def lazy(module: str, name: str, sources: Mapping[str, str]) -> Any:
    """Import ``name`` from where ``sources`` says it lives and keep it on ``module``.

    Raises:
        AttributeError: the module has no such name.
    """
    if name not in sources:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(sources[name]), name)
    setattr(sys.modules[module], name, value)
    return value
