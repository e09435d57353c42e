"""docs/plugins.md, as its reader would follow it: every marked block, in order, in a fresh virtual environment.

Our own packages come as wheels built here; everything else comes from the package index (some minutes on two cores).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "plugins.md"
BLOCK = re.compile(r"<!-- walk(?:: (?P<file>\S+))? -->\n```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
OURS = ("core", "plugins/backbones/bert", "plugins/backbones/gpt2")


def blocks() -> list[tuple[str | None, str, str]]:
    """File name (None for commands), language and text of each block of the walk, in order."""
    return [
        (found["file"], found["language"], found["text"]) for found in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))
    ]


def test_the_walk_is_there() -> None:
    found = blocks()
    assert len(found) >= 8
    assert all((language == "bash") == (file is None) for file, language, _ in found)
    assert PAGE.read_text(encoding="utf-8").count("<!-- walk") == len(found), "a marked block is not read"


@pytest.mark.slow
def test_the_walk_runs(tmp_path: Path) -> None:
    wheels, home = tmp_path / "wheels", tmp_path / "reader"
    home.mkdir()
    ours = [str(ROOT / folder) for folder in OURS]
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), *ours]
    subprocess.run([sys.executable, *build], check=True, timeout=300)
    (tmp_path / "constraints.txt").write_text(f"torch=={metadata.version('torch').partition('+')[0]}\n")
    script = ["set -euo pipefail"]
    for number, (file, _, text) in enumerate(blocks()):
        if file is None:
            script += ["set -x", text, "{ set +x; } 2>/dev/null"]
        else:
            (tmp_path / f"block-{number}").write_text(text, encoding="utf-8")
            script.append(f"cp {shlex.quote(str(tmp_path / f'block-{number}'))} {shlex.quote(file)}")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "REFARCH_"))}
    links = " ".join(filter(None, [os.environ.get("PIP_FIND_LINKS"), str(wheels)]))
    found = {**kept, "PIP_FIND_LINKS": links, "PIP_CONSTRAINT": str(tmp_path / "constraints.txt"), "PIP_QUIET": "1"}
    try:
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)], cwd=home, env=found, capture_output=True, text=True, timeout=1500
        )
    finally:
        shutil.rmtree(home / ".venv", ignore_errors=True)  # more than a gigabyte
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-8000:]
    assert re.search(r"^technique ranked-update, on [2-9] models: ", done.stdout, re.MULTILINE), said[-8000:]
    assert re.search(r"^=+ \d+ passed.*=$", done.stdout, re.MULTILINE), said[-8000:]
    assert re.search(r"^ranked-update: attention.query, attention.value$", done.stdout, re.MULTILINE)
