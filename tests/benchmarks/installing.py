"""CPU time of the README's two set-ups, in one tree or in several side by side.

    python tests/benchmarks/installing.py [--rounds N] [TREE ...]

Of the README's first command and of its test command, all but the last program runs: what makes the environment and
fills it. Both run in one new virtual environment a tree, as somebody pastes them one after the other; trees take turns,
with one cache of wheels, which an unmeasured round fills first (``--cold`` leaves that out). CPU time is that of all
processes below, user and system; the medians are compared with the first tree's.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
COMMANDS = {"first": "run", "second": "tests"}
"""The set-ups, and the marks of their commands in the README."""


def setup(tree: Path, mark: str, venv: Path) -> str:
    """The command after a mark in a tree's README without its last program, for another environment."""
    text = (tree / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {mark} -->\n```bash\n(.*?)```", text, re.DOTALL)
    if found is None:
        raise SystemExit(f"{tree}/README.md has no command after <!-- {mark} -->")
    return found[1].strip().rpartition("&&")[0].replace(".venv", str(venv))


def seconds(command: str, folder: Path) -> float:
    """CPU time of a command and of all that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command}:\n{(done.stdout + done.stderr)[-4000:]}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measured(tree: Path) -> dict[str, float]:
    """CPU time of each set-up, one after the other in a new environment."""
    with tempfile.TemporaryDirectory() as folder:
        venv = Path(folder) / "venv"
        return {name: seconds(setup(tree, mark, venv), tree) for name, mark in COMMANDS.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", type=Path, metavar="TREE", help="Checkouts; this one when left out.")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cold", action="store_true", help="Measure the round that fills the cache too.")
    arguments = parser.parse_args()
    trees = [tree.resolve() for tree in arguments.trees or [HERE]]
    times: dict[Path, dict[str, list[float]]] = {tree: {name: [] for name in COMMANDS} for tree in trees}
    for number in range(-1 if not arguments.cold else 0, arguments.rounds):
        for position, tree in enumerate(trees):
            for name, value in measured(tree).items():
                print(f"round {number + 1}, tree {position + 1}, {name}: {value:.1f} s", file=sys.stderr, flush=True)
                if number >= 0:
                    times[tree][name].append(value)
    for name in COMMANDS:
        base = statistics.median(times[trees[0]][name])
        for position, tree in enumerate(trees):
            value = statistics.median(times[tree][name])
            print(f"{name:8}tree {position + 1}{value:8.1f} CPU-s   {value / base:.3f} of tree 1")


if __name__ == "__main__":
    main()
