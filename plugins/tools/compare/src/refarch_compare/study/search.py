"""The search for a group's learning rate: optuna proposes and gives up, files remember.

A search is a chain: what trial n tries follows from the trials before it and the study's seed alone. Each trial's
result is a file that is written whole or not at all, and optuna's memory is made of these files anew for each trial. So
a search that is killed at any moment goes on to the same result, which optuna's own journal (a line cut short makes it
unreadable) would not promise. Trials run one after another, in one process at a time; other processes take other cells.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from refarch import PipelineSpec, RunRecord, hookimpl
from refarch.architecture import Spec
from refarch.errors import BusyError, RefarchError, RunError, SaveError
from refarch.files import read_json, write_text
from refarch_compare.study.folder import metrics
from refarch_compare.study.plan import trial_pipeline
from refarch_compare.study.spec import Search

if TYPE_CHECKING:
    import optuna

NAME = "learning_rate"
NOTE = "trial.json"
"""What an ended trial leaves."""


class Trial(Spec):
    """One learning rate that was tried."""

    number: int
    learning_rate: float
    state: Literal["finished", "stopped", "failed"]
    """Run to its end, stopped early as hopeless, or failed (a loss that is not finite counts as that)."""
    value: float | None = None
    """The task's metric on the validation split at the end."""
    values: dict[int, float] = {}
    """The same on the way, by step."""
    reason: str = ""
    seconds: float = 0.0


class Found(Spec):
    """What a search found."""

    learning_rate: float
    trial: int
    value: float
    metric: str
    trials: tuple[Trial, ...]


class Hopeless(RefarchError):
    """A trial is not worth its remaining steps."""


class Judge:
    """An observer that stops a trial's run at an evaluation where it is hopeless.

    Args:
        folder: the trial's run folder.
        hopeless: says why the values so far, by step, are not worth going on; an empty string if they are.
        metric: the metric that decides.
    """

    def __init__(self, folder: Path, hopeless: Callable[[dict[int, float]], str], metric: str) -> None:
        self.folder, self.hopeless, self.metric = folder, hopeless, metric

    @hookimpl(trylast=True)
    def refarch_evaluated(self, folder: Path, step: int, total: int, split: str) -> None:
        """Judge the values so far; those from before a kill are on file. At the end there is nothing left to save."""
        if folder == self.folder and split == "validation" and step < total:
            reason = self.hopeless(values(self.folder, self.metric))
            if reason:
                raise Hopeless(reason)


Run = Callable[[PipelineSpec, Path, Judge | None], RunRecord]
"""Runs a trial's pipeline in a folder, with a judge watching."""


def values(run: Path, metric: str) -> dict[int, float]:
    """A metric on the validation split by step, as far as a run has come."""
    return {line["step"]: line[metric] for line in metrics(run, "validation") if metric in line}


def search(
    spec: Search,
    pipeline: PipelineSpec,
    folder: Path,
    *,
    metric: str,
    greater_is_better: bool,
    run: Run,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> Found:
    """Find a learning rate, or go on with a search that was begun.

    Args:
        spec: how.
        pipeline: the group's, resolved.
        folder: of the search.
        metric: what decides, on the validation split.
        greater_is_better: its direction.
        run: runs a trial's pipeline in a folder with a judge watching.
        tell: hears of each trial when it has ended.

    Raises:
        RunError: no trial came to an end.
    """
    result = folder / "result.json"
    if result.is_file():
        return Found.parse(read_json(result), str(result))
    done: list[Trial] = []
    for number in range(spec.trials):
        path = folder / f"trial-{number:03}"
        note = path / NOTE
        if note.is_file():
            done.append(Trial.parse(read_json(note), str(note)))
            _tidy(path)
            continue
        rate = propose(spec, done, pipeline.training.learning_rate, greater_is_better)
        trial = _tried(spec, number, rate, done, pipeline, path, metric, greater_is_better, run)
        write_text(note, trial.to_json())
        _tidy(path)
        done.append(trial)
        tell(trial)
    found = best(done, metric, greater_is_better)
    write_text(result, found.to_json())
    return found


def best(trials: list[Trial], metric: str, greater_is_better: bool) -> Found:
    """The best of the trials that came to an end; the first of equal ones.

    Raises:
        RunError: there is none.
    """
    ended = [trial for trial in trials if trial.value is not None and math.isfinite(trial.value)]
    if not ended:
        reasons = "; ".join(dict.fromkeys(trial.reason for trial in trials if trial.reason))
        raise RunError(f"none of {len(trials)} trials of the search came to an end: {reasons or 'no value'}")
    sign = -1.0 if greater_is_better else 1.0
    first = min(ended, key=lambda trial: (sign * float(trial.value or 0.0), trial.number))
    assert first.value is not None
    return Found(
        learning_rate=first.learning_rate, trial=first.number, value=first.value, metric=metric, trials=tuple(trials)
    )


def propose(spec: Search, done: list[Trial], default: float, greater_is_better: bool) -> float:
    """What the next trial tries: the default first, then optuna's proposals; all searches begin alike.

    Args:
        spec: the search.
        done: the trials so far.
        default: the technique's and task's own learning rate.
        greater_is_better: the metric's direction.
    """
    low, high = spec.learning_rate
    if not done and low <= default <= high:
        return default
    study = _memory(spec, done, greater_is_better)
    rate = study.ask().suggest_float(NAME, low, high, log=True)
    return min(high, max(low, float(f"{rate:.4g}")))  # a number that people can read and type


def hopeless(
    spec: Search, done: list[Trial], rate: float, greater_is_better: bool
) -> Callable[[dict[int, float]], str]:
    """Judges a trial's values so far by optuna's median rule."""

    def judge(so_far: dict[int, float]) -> str:
        study = _memory(spec, done, greater_is_better)
        study.enqueue_trial({NAME: rate})
        trial = study.ask()
        trial.suggest_float(NAME, *spec.learning_rate, log=True)
        for step, value in sorted(so_far.items()):
            trial.report(value, step)
        if not so_far or not trial.should_prune():
            return ""
        step = max(so_far)
        return f"at step {step} its best value was worse than the median of the earlier trials there"

    return judge


def _tried(
    spec: Search,
    number: int,
    rate: float,
    done: list[Trial],
    pipeline: PipelineSpec,
    path: Path,
    metric: str,
    greater_is_better: bool,
    run: Run,
) -> Trial:
    """Run one trial to its end, however it ends."""
    began = time.perf_counter()
    judge = Judge(path, hopeless(spec, done, rate, greater_is_better), metric) if spec.prune else None
    known: dict[str, Any] = {"number": number, NAME: rate}
    try:
        record = run(trial_pipeline(spec, pipeline, rate), path, judge)
        known |= {"state": "finished", "value": record.score}
    except Hopeless as error:
        known |= {"state": "stopped", "reason": error.message}
    except (SaveError, BusyError):
        raise
    except RunError as error:
        known |= {"state": "failed", "reason": error.message.splitlines()[0]}
    return Trial(**known, values=values(path, metric), seconds=round(time.perf_counter() - began, 3))


def forget_failures(folder: Path) -> None:
    """Let a search's failed trials be tried again, and those after them, which were proposed knowing of them."""
    trials = sorted(path for path in folder.glob("trial-*") if (path / NOTE).is_file())
    failed = [Trial.parse(read_json(path / NOTE), str(path / NOTE)).state == "failed" for path in trials]
    for path in reversed(trials[failed.index(True) :] if any(failed) else []):
        shutil.rmtree(path)


def _tidy(path: Path) -> None:
    """Leave of an ended trial what is small, and its record under a name that is not taken for a result's."""
    for rest in ("checkpoints", "adaptations"):
        shutil.rmtree(path / rest, ignore_errors=True)
    if (path / "record.json").is_file():
        (path / "record.json").replace(path / "trial-record.json")


def _memory(spec: Search, done: list[Trial], greater_is_better: bool) -> optuna.Study:
    """A study of optuna's that has seen the trials so far."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    states = {
        "finished": optuna.trial.TrialState.COMPLETE,
        "stopped": optuna.trial.TrialState.PRUNED,
        "failed": optuna.trial.TrialState.FAIL,
    }
    seed = int(np.random.SeedSequence([spec.seed, len(done)]).generate_state(1)[0])
    study = optuna.create_study(
        direction="maximize" if greater_is_better else "minimize",
        sampler=optuna.samplers.TPESampler(n_startup_trials=max(2, spec.trials // 2), seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=spec.settled),
    )
    range_ = optuna.distributions.FloatDistribution(*spec.learning_rate, log=True)
    for trial in done:
        study.add_trial(
            optuna.trial.create_trial(
                state=states[trial.state],
                params={NAME: trial.learning_rate},
                distributions={NAME: range_},
                value=trial.value if trial.state == "finished" else None,
                intermediate_values=trial.values,
            )
        )
    return study
