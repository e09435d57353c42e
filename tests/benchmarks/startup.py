"""Start-up as whole processes: ``refarch list-plugins``, and commands that look at files, names or help alone.

    python tests/benchmarks/startup.py [--runs N] [--limit RATIO] [--commands-limit RATIO]

``list-plugins`` is compared with a process that only imports what it cannot do without, by wall clock; the commands
with ``refarch show lora``, by CPU time, since what they may not do is import torch. Runs alternate, so that a busy
machine slows all alike; the medians are compared. Exits with 1 above a limit.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

BASE = "import click, importlib.metadata"
CALL = "import sys; from refarch.cli import main; sys.exit(main(sys.argv[1:]))"
SHOW = "show lora"
COMMANDS = (
    "compare run missing.yaml",
    "compare measure nowhere",
    "compare report nowhere",
    "compare structure --help",
    "compare structure lorra",
    "convert formats",
    "convert from-peft ./nowhere --out out",
    "convert to-peft nowhere --out out",
    "diagram lora",
    "estimate --backbone ./nowhere",
    "evaluate nowhere --tasks arc_easy",
    "inspect ./nowhere",
    "inspect --help",
    "library check nowhere",
    "library list",
    "library port nowhere --to ./nowhere",
    "library show nowhere",
    "predict --adaptation nowhere",
    "predict --adaptation nowhere --text x",
)
"""Wrong input, help, and what needs no torch; in an empty folder."""


def seconds(command: Sequence[str]) -> float:
    """Wall-clock time of one process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def cpu_seconds(command: Sequence[str]) -> float:
    """CPU time of one process, the system's included; whatever it answers."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", *command], check=False, capture_output=True, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ratios(
    commands: Mapping[str, Sequence[str]], base: str, runs: int, measure: Callable[[Sequence[str]], float]
) -> dict[str, float]:
    """Median times relative to that of ``base``, printed."""
    for command in commands.values():  # fills the caches of bytecode and of the file system
        measure(command)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(measure(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(
            f"{name:40}median {medians[name] * 1e3:7.1f} ms   fastest {min(values) * 1e3:7.1f} ms"
            f"   ratio {medians[name] / medians[base]:5.2f}"
        )
    return {name: median / medians[base] for name, median in medians.items()}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--limit", type=float, default=2.0)
    parser.add_argument("--commands-limit", type=float, default=1.5)
    arguments = parser.parse_args()
    listing = {"base": (BASE,), "list-plugins": (CALL, "list-plugins")}
    listed = ratios(listing, "base", arguments.runs, seconds)["list-plugins"]
    print(f"list-plugins: ratio {listed:.2f} (limit {arguments.limit:g})\n")
    commands = {line: (CALL, *line.split(" ")) for line in (SHOW, *COMMANDS)}
    slowest = max(ratios(commands, SHOW, max(1, arguments.runs // 4), cpu_seconds).values())
    print(f"commands: largest ratio to {SHOW!r} {slowest:.2f} (limit {arguments.commands_limit:g})")
    return int(listed > arguments.limit or slowest > arguments.commands_limit)


if __name__ == "__main__":
    sys.exit(main())
