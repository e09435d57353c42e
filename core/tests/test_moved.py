"""What could be imported before the core had rooms can be imported still.

``public_names.json`` holds every public name of every file of the core at commit 7ac5b32, the last one without
rooms.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from refarch import _moved
from refarch._moved_names import GONE, MOVED

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT / "core" / "src", ROOT / "plugins" / "tools" / "compare" / "src")
OLD: dict[str, str] = json.loads(Path(__file__).with_name("public_names.json").read_text(encoding="utf-8"))
TABLE = "core/src/refarch/_moved_names.py"


def ask(module: str, name: str) -> tuple[Any, list[str]]:
    """A name by its old path, and what was said about it."""
    spaces: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(f"from {module} import {name} as value", spaces)
    told = [str(item.message) for item in caught if issubclass(item.category, DeprecationWarning)]
    return spaces["value"], [text for text in told if text.startswith(f"{module}.{name} is deprecated")]


def follow(advice: str) -> Any:
    match = re.search(r"'(from [\w.]+ import (\w+))'$", advice)
    assert match, advice
    spaces: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        exec(match[1], spaces)
    return spaces[match[2]]


@cache
def definitions() -> dict[str, list[str]]:
    """In which modules each name is defined today."""
    found: dict[str, list[str]] = {}
    for source in SOURCES:
        for path in source.rglob("*.py"):
            module = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
                for target in targets:
                    name = getattr(target, "id", getattr(target, "name", None))
                    if name is not None and module not in found.setdefault(name, []):
                        found[name].append(module)
    return found


def moved(module: str) -> set[str]:
    """The names that the table has of an old module."""
    return {item.partition("=")[0] for names in MOVED.get(module, {}).values() for item in names.split()}


def entry(module: str, name: str) -> str:
    """What to write into the table, as far as one can tell."""
    homes = definitions().get(name, [])
    first = f'in MOVED["{module}"] of {TABLE} put "{name}" under its new module ("{name}=NewName" if it is renamed)'
    known = f"; defined today in {', '.join(homes)}" if homes else "; nothing is defined under that name today"
    return f"{first}{known}. If nothing stands in its place, put into GONE what there is instead"


def problem(module: str, name: str) -> str:
    """Why an old path does not lead where it should; empty when it does."""
    if name in GONE.get(module, {}):
        return "" if GONE[module][name] else "GONE does not say what there is instead"
    try:
        value, told = ask(module, name)
    except (ImportError, AttributeError) as error:
        return f"{error}: {entry(module, name)}"
    if not told:
        return f"it is still there, so {TABLE} must not have it" if name in moved(module) else ""
    return "" if all(follow(advice) is value for advice in told) else f"{told} leads to something else"


@pytest.mark.parametrize("module", OLD)
def test_every_name_of_before_can_be_imported(module: str) -> None:
    importlib.import_module(module)
    for home in MOVED.get(module, {}):
        if not home.startswith("refarch."):
            pytest.importorskip(home.partition(".")[0])
    problems = {f"{module}.{name}": why for name in OLD[module].split() if (why := problem(module, name))}
    assert not problems, "\n".join(f"{name}: {why}" for name, why in problems.items())


def test_the_table_has_names_of_before_alone() -> None:
    listed = {
        (m, item.partition("=")[0]) for m, homes in MOVED.items() for names in homes.values() for item in names.split()
    }
    listed |= {(m, name) for m, names in GONE.items() for name in names}
    assert listed <= {(m, name) for m, names in OLD.items() for name in names.split()}


def test_a_warning_names_the_face_and_the_line_that_asked() -> None:
    with pytest.warns(DeprecationWarning, match="write 'from refarch import LowRank'") as caught:
        from refarch.engine.function import LowRank
    assert Path(caught[0].filename) == Path(__file__)
    from refarch import LowRank as now

    assert LowRank is now


def test_a_package_that_stands_where_a_module_was_finds_its_names() -> None:
    import refarch.engine.adaptation.plan  # the package itself is as it was written

    assert refarch.engine.adaptation.__doc__ and refarch.engine.adaptation.__file__
    with pytest.warns(DeprecationWarning, match="from refarch import Adaptation"):
        from refarch.engine.adaptation import Adaptation
    assert Adaptation.__module__ == "refarch.engine.adaptation.adaptation"


def test_a_function_of_a_face_wins_over_the_module_that_was_called_as_it_is() -> None:
    code = """
import refarch, refarch.engine, refarch.pipeline
import refarch.engine.attach, refarch.pipeline.run, refarch.engine.compose.combine
from refarch.engine.attach import load
from refarch.composition import combine
assert load is refarch.load
assert refarch.engine.attach is refarch.attach and refarch.pipeline.run is refarch.run
assert refarch.engine.compose.combine is combine
import refarch.engine.function
assert refarch.engine.function.LowRank is refarch.LowRank
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_a_module_that_is_gone_shows_what_it_had() -> None:
    from refarch.engine import function

    assert {"Function", "LowRank", "SlotShape"} <= set(dir(function))
    spaces: dict[str, Any] = {}
    with pytest.warns(DeprecationWarning):
        exec("from refarch.engine.function import *", spaces)
    assert "LowRank" in spaces
    with pytest.raises(AttributeError, match=r"'refarch\.engine\.function' has no attribute 'HighRank'"):
        _ = function.HighRank
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("refarch.engine.no_such")


def test_a_name_without_a_successor_says_what_there_is_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GONE, "refarch.engine.function", {"LowRank": "write your own"})
    with pytest.raises(ImportError, match=r"refarch\.engine\.function\.LowRank is gone: write your own"):
        from refarch.engine.function import LowRank  # noqa: F401


def test_what_went_to_a_plugin_says_so_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MOVED, "refarch.engine.ledger", {"refarch_elsewhere.ledger": "Ledger"})
    with pytest.raises(ImportError, match="pip install refarch-elsewhere"):
        from refarch.engine.ledger import Ledger  # noqa: F401


def test_the_finder_is_asked_once() -> None:
    _moved.install()
    assert sys.meta_path.count(_moved.Finder) == 1
    assert _moved.Finder.find_spec("torch.nn") is None and _moved.Finder.find_spec("refarch.engine.plugin") is None


def test_importing_refarch_stays_light() -> None:
    code = "import sys, refarch; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "pydantic", "transformers", "pluggy", "numpy"} & set(loaded)
