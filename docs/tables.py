"""What the commands that write tables of runs share: runs in processes, progress, paired intervals, the machine.

Every run is an ordinary run of refarch with a folder of its own: killed at any moment, a command goes on where it was,
and finished runs are not run again.
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
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Job(NamedTuple):
    """A run to be done: its name, which is its folder's too, and its pipeline."""

    name: str
    pipeline: dict[str, Any]


class Result(NamedTuple):
    """One run's."""

    name: str
    score: float = float("nan")
    metric: str = ""
    greater_is_better: bool = True
    baselines: dict[str, float] = {}
    parameters: int = 0
    error: str = ""


def one_thread() -> None:
    """One thread a process; before torch is imported."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def parser(doc: str | None, runs: str, seeds: int) -> argparse.ArgumentParser:
    """The command line that all of them have.

    Args:
        doc: the script's docstring.
        runs: the folder below ``runs`` that its run folders are in.
        seeds: how many a whole page has.
    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, default=seeds, choices=range(1, 11))
    made.add_argument("--processes", type=int, default=2)
    made.add_argument("--runs", type=Path, default=ROOT / "runs" / runs, help="where run folders are")
    return made


def perform(job: Job, folder: Path) -> Result:
    """One run, or the record of it if it is finished; a failure is a result too."""
    import torch

    from refarch import PipelineSpec, run
    from refarch.errors import RefarchError

    torch.set_num_threads(1)
    try:
        record, _ = run(PipelineSpec.parse(job.pipeline), folder / job.name, pool=_pool())
    except RefarchError as error:
        return Result(job.name, error=str(error).splitlines()[0])
    return Result(
        job.name,
        record.score,
        record.metric,
        record.greater_is_better,
        record.baselines,
        record.trainable_parameters,
    )


@functools.cache
def _pool() -> Any:
    """What the runs of one process share: backbones and data."""
    from refarch import Pool

    return Pool()


def run_all(jobs: Sequence[Job], folder: Path, processes: int) -> dict[str, Result]:
    """All results by name; progress and the time left go to standard error."""
    results: dict[str, Result] = {}
    started = time.perf_counter()
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(perform, job, folder) for job in jobs]):
            result = future.result()
            results[result.name] = result
            spent = time.perf_counter() - started
            left = spent / len(results) * (len(jobs) - len(results))
            shown = result.error or f"{result.score:.3f}"
            head = f"[{len(results)}/{len(jobs)}, {spent:.0f}s, about {left:.0f}s left]"
            print(f"{head} {result.name}: {shown}", file=sys.stderr, flush=True)
    return results


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean of paired differences and the half width of its 95 % interval by Student's t."""
    from scipy.stats import t

    mean, count = statistics.fmean(differences), len(differences)
    if count < 2:
        return mean, float("inf")
    return mean, float(t.ppf(0.975, count - 1)) * statistics.stdev(differences) / count**0.5


def spread(scores: Sequence[float], digits: int = 3) -> str:
    """Mean ± standard deviation."""
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return f"{statistics.fmean(scores):.{digits}f} ± {deviation:.{digits}f}"


def machine() -> str:
    """What wrote a page."""
    return (
        f"Last written on {platform.machine()} with {os.cpu_count()} cores ({_processor()}), one thread a run, torch"
        f" {metadata.version('torch')}, transformers {metadata.version('transformers')}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown processor")


def finish(text: str, target: Path | None, results: dict[str, Result], say: Callable[[str], None] = print) -> int:
    """Write the page, or print it where there is no target; the exit status is 1 if any run failed."""
    if target is None:
        say(text)
    else:
        target.write_text(text, encoding="utf-8")
        print(f"wrote {target}", file=sys.stderr)
    return 1 if any(result.error for result in results.values()) else 0
