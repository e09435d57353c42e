"""What a command can say without torch, it says without torch: a wrong word costs no seconds of waiting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

HEAVY = ("torch", "transformers", "numpy")
RUN = ("run", "--backbone", "quokka-model", "--technique", "quokka", "--task", "quokka")
WRONG = (
    ("run", "nowhere.yaml"),
    ("run", "--technique", "quokka"),
    (*RUN, "--technique", "quoka"),
    (*RUN, "--task", "quoka"),
    (*RUN, "--set", "technique.rnk=4"),
    (*RUN, "--set", "training.epoch=4"),
    (*RUN, "--set", "backbone=quokka"),
    (*RUN, "--set", "backbone=./nowhere"),
    ("schema", "quoka"),
    ("show", "quoka"),
    ("check", "quoka"),
    ("check", "quokka-model"),
    ("check", "quokka", "--kind", "technique", "--options", "rnk=4"),
    ("check", "quokka", "--kind", "technique", "--options", "rank"),
    ("check", "quokka", "--kind", "technique", "--family", "quoka"),
    ("check", "quokka", "--kind", "technique", "--family", "quokka-model"),
    ("check", "quokka", "--kind", "technique", "--exempt", "light_import"),
    ("check", "quokka", "--kind", "task", "--options", "max_len=4"),
    ("check", "quokka", "--kind", "backbone", "--options", "max_len=4"),
    ("new", "technique", "Not A Name"),
    ("new", "backbone", "other", "--model-type", "quoka"),
)
RIGHT = (
    (*RUN, "--dry-run"),
    ("schema", "pipeline"),
    ("schema", "quokka", "--kind", "technique"),
    ("show", "quokka"),
    ("show", "quokka", "--json"),
    ("new", "technique", "mine"),
    ("new", "backbone", "other", "--model-type", "quokka"),
    ("list-plugins", "--check"),
    ("--help",),
)
PROGRAM = """
import contextlib, io, json, sys
from refarch.cli import main
lines, heavy = json.loads(sys.argv[1])
found = []
for line in lines:
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(line)
    found.append([code, [name for name in heavy if name in sys.modules]])
print(json.dumps(found))
"""


@pytest.mark.parametrize(("lines", "code"), [(WRONG, 2), (RIGHT, 0)], ids=["wrong", "right"])
def test_nothing_heavy_is_loaded(
    site: Any, lines: tuple[tuple[str, ...], ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process for all lines, in which each one is blamed that loads something or ends with another code."""
    for kind in ("technique", "task", "backbone", "command"):
        site.plugin("quokka", kind, distribution=f"refarch-quokka-{kind}")
    monkeypatch.chdir(tmp_path)
    done = site.process("-c", PROGRAM, json.dumps([lines, HEAVY]))
    found = json.loads(done.out)
    assert {" ".join(line): was for line, was in zip(lines, found, strict=True) if was != [code, []]} == {}, done.err


@pytest.mark.parametrize(
    "line",
    [
        "from refarch.pipeline import COMPLETE, RunFolder, differences, parse_yaml, versions",
        "from refarch.tasks import Table, make_splits, read_rows, read_source",
        "from refarch.plugins import ResolvedPipeline, configured, locate, look_up",
    ],
)
def test_what_needs_no_torch_is_imported_without_it(site: Any, line: str) -> None:
    done = site.process("-c", f"{line}\nimport sys; print('torch' in sys.modules, 'transformers' in sys.modules)")
    assert done.out == "False False\n", done.err


def test_seeds_need_numpy_alone(site: Any) -> None:
    done = site.process("-c", "from refarch.pipeline import seeds\nimport sys; seeds(3); print('torch' in sys.modules)")
    assert done.out == "False\n", done.err
