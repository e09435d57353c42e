"""Write docs/learning.md: whether every installed technique learns, on the embedded default task, against head-only.

    python docs/learning.py                              # all techniques, 3 seeds; writes docs/learning.md
    python docs/learning.py --technique lora --seeds 1   # a part; prints the page
    python docs/learning.py --processes 1                # on a machine that is busy

Each run is an ordinary run of refarch with a folder of its own below runs/learning: killed at any moment, the command
goes on where it was, and finished runs are not run again.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import platform
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "learning.md"
BACKBONE, TASK, BASELINE = "minilm", "lexicon-polarity", "head-only"
TRAIN_ROWS, SEEDS = 1500, 3
STUDENT_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""The 97.5 % quantile of Student's t by degrees of freedom."""


class Result(NamedTuple):
    """One run's."""

    technique: str
    seed: int
    score: float
    majority: float
    parameters: int
    error: str = ""


def pipeline(technique: str, seed: int) -> dict:
    """What is run: the technique's own defaults, on a part of the task's training words."""
    return {
        "backbone": BACKBONE,
        "techniques": [technique],
        "task": {"name": TASK, "options": {"train_limit": TRAIN_ROWS, "validation_size": 0.0}},
        "training": {"threads": 1},
        "seed": seed,
    }


def perform(technique: str, seed: int, folder: Path) -> Result:
    """One run, or the record of it if it is finished; never raises."""
    import torch

    from refarch import PipelineSpec, run
    from refarch.errors import RefarchError

    torch.set_num_threads(1)
    try:
        record, _ = run(PipelineSpec.parse(pipeline(technique, seed)), folder / f"{technique}-{seed}", pool=_pool())
    except RefarchError as error:
        return Result(technique, seed, float("nan"), float("nan"), 0, str(error).splitlines()[0])
    return Result(technique, seed, record.score, record.baselines["majority"], record.trainable_parameters)


@functools.cache
def _pool() -> Any:
    """What the runs of one process share: the backbone and the data."""
    from refarch import Pool

    return Pool()


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean of paired differences and the half width of its 95 % interval by Student's t."""
    mean, count = statistics.fmean(differences), len(differences)
    if count < 2:
        return mean, float("inf")
    return mean, STUDENT_95[count - 1] * statistics.stdev(differences) / count**0.5


def page(results: list[Result]) -> str:
    """The page as Markdown."""
    by_name: dict[str, dict[int, Result]] = {}
    for result in results:
        by_name.setdefault(result.technique, {})[result.seed] = result
    base = by_name[BASELINE]
    rows, behind = [], []
    for name, own in by_name.items():
        wrong = next((result.error for result in own.values() if result.error), "")
        if wrong:
            rows.append((-1.0, f"| `{name}` | failed: {wrong} | | | |"))
            behind.append(f"- `{name}` could not be run: {wrong}")
            continue
        scores = [own[seed].score for seed in sorted(own)]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        mean, half = interval([own[seed].score - base[seed].score for seed in sorted(own)])
        shown = "" if name == BASELINE else f"{mean:+.3f} ± {half:.3f}"
        verdict = "" if name == BASELINE else "yes" if mean > half else "within noise" if abs(mean) <= half else "no"
        rows.append(
            (
                statistics.fmean(scores),
                f"| `{name}` | {statistics.fmean(scores):.3f} ± {spread:.3f} | {shown} | {verdict} |"
                f" {next(iter(own.values())).parameters:,} |",
            )
        )
        if verdict not in ("", "yes"):
            word = "falls short of it" if mean < 0 else "is above it"
            behind.append(f"- `{name}` {word} by {abs(mean):.3f} on average ({verdict})")
    majority = next(result.majority for result in results if not result.error)
    beaten = len(by_name) - 1 - len(behind)
    lines = [
        "# Every technique learns",
        "",
        f"Backbone `{BACKBONE}`, task `{TASK}` with {TRAIN_ROWS:,} training words, {len(base)} seeds, each technique"
        " with its own default options and training settings, nothing searched (the default learning rates of `bitfit`"
        " and `ln-tuning`, 3e-3, were chosen among two on this task with seed 0). The head trains along in every row;"
        f" `{BASELINE}` trains nothing else. Always answering the more frequent label scores {majority:.3f}.",
        "",
        f"**{beaten} of {len(by_name) - 1} techniques beat head-only** with a 95 % interval of the paired difference"
        " (same seed, same head at the start, same order of the data; Student's t) above zero.",
        "",
        "| technique | accuracy, mean ± deviation | difference to head-only, 95 % | beats it | trainable, head too |",
        "|---|---|---|---|---|",
        *(row for _, row in sorted(rows, reverse=True)),
        "",
        "Budgets are not matched here: this page says whether a technique learns with its defaults, not which is best.",
        "",
        "## Those that do not beat it",
        "",
        *(behind or ["None."]),
        "",
        "## How to reproduce it",
        "",
        "`python docs/learning.py` writes this page; run folders with pipeline, metrics and record are left in"
        f" `runs/learning`. Last written on {platform.machine()} with {os.cpu_count()} cores ({_processor()}), one"
        f" thread a run, torch {metadata.version('torch')}, transformers {metadata.version('transformers')}.",
    ]
    return "\n".join(lines) + "\n"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--technique", action="append", help="only this technique (and head-only); repeatable")
    parser.add_argument("--seeds", type=int, default=SEEDS, choices=range(1, 11))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "learning", help="where run folders are")
    chosen = parser.parse_args(arguments)
    from refarch.plugins.registry import default_registry

    names = [BASELINE, *(n for n in chosen.technique or default_registry().names("technique") if n != BASELINE)]
    jobs = [(name, seed) for seed in range(chosen.seeds) for name in names]
    results: list[Result] = []
    started = time.perf_counter()
    with ProcessPoolExecutor(chosen.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(perform, *job, chosen.runs) for job in jobs]):
            result = future.result()
            results.append(result)
            spent = time.perf_counter() - started
            left = spent / len(results) * (len(jobs) - len(results))
            print(
                f"[{len(results)}/{len(jobs)}, {spent:.0f}s, about {left:.0f}s left] {result.technique} seed"
                f" {result.seed}: {result.error or f'{result.score:.3f}'}",
                file=sys.stderr,
                flush=True,
            )
    results.sort()
    text = page(results)
    if chosen.technique or chosen.seeds != SEEDS:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
        print(f"wrote {PAGE}", file=sys.stderr)
    return 1 if any(result.error for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
