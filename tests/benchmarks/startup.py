"""Start-up of ``refarch list-plugins``: whole processes, next to one that only imports what it cannot do without.

    python tests/benchmarks/startup.py [--runs N] [--limit RATIO]

Runs alternate, so that a busy machine slows both alike; the medians are compared. Exits with 1 above the limit.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

BASE = "import click, importlib.metadata"
LISTING = "import sys; from refarch.cli import main; sys.exit(main(['list-plugins']))"


def seconds(program: str) -> float:
    """Wall-clock time of one process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--limit", type=float, default=2.0)
    arguments = parser.parse_args()
    programs = {"base": BASE, "list-plugins": LISTING}
    for program in programs.values():  # fills the caches of bytecode and of the file system
        seconds(program)
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(arguments.runs):
        for name, program in programs.items():
            times[name].append(seconds(program))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(f"{name:14}median {medians[name] * 1e3:6.1f} ms   fastest {min(values) * 1e3:6.1f} ms")
    ratio = medians["list-plugins"] / medians["base"]
    print(f"ratio {ratio:.2f} (limit {arguments.limit:g})")
    return int(ratio > arguments.limit)


if __name__ == "__main__":
    sys.exit(main())
