"""The search for a learning rate: a chain that any kill leaves resumable, judged on validation, the same for all."""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace

import pytest
from refarch_compare.study.estimate import Left, Timed, duration
from refarch_compare.study.search import Found, Hopeless, Judge, Trial, forget_failures, propose, search
from refarch_compare.study.spec import Search

from refarch import PipelineSpec
from refarch.errors import BusyError, RunError, SaveError

PIPELINE = PipelineSpec.parse({"backbone": "minilm", "techniques": ["lora"], "task": "bbc-news", "seed": 7})


class Runs:
    """Stands in for running pipelines: the score is best at a rate of 0.01, and known before the end.

    Args:
        stop_at: raise KeyboardInterrupt when so many evaluations were written, as a kill would.
        diverges: from this rate on.
    """

    def __init__(self, stop_at=None, diverges=math.inf):
        self.stop_at, self.diverges = stop_at, diverges
        self.pipelines, self.steps = [], []

    def __call__(self, pipeline, folder, judge):
        self.pipelines.append(pipeline)
        if (folder / "record.json").exists():
            return SimpleNamespace(score=json.loads((folder / "record.json").read_text())["score"])
        rate, steps = pipeline.training.learning_rate, 4
        if rate >= self.diverges:
            raise RunError(f"the loss is nan at step 1\nwith {rate}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text("")  # what a run does when it resumes from nothing
        for step in range(1, steps + 1):
            value = round(1 - abs(math.log10(rate / 0.01)) / 4 - 0.1 / step, 6)
            with open(folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps({"step": step, "split": "validation", "accuracy": value}) + "\n")
            self.steps.append(step)
            if len(self.steps) == self.stop_at:
                raise KeyboardInterrupt
            if judge is not None:
                judge.refarch_evaluated(folder=folder, step=step, total=steps, split="validation")
        (folder / "adaptations").mkdir()
        (folder / "record.json").write_text(json.dumps({"score": value}))
        return SimpleNamespace(score=value)


def find(spec, folder, runs, **kwargs):
    return search(spec, PIPELINE, folder, metric="accuracy", greater_is_better=True, run=runs, **kwargs)


def plain(found: Found):
    return [trial.model_copy(update={"seconds": 0.0}) for trial in found.trials]


SPEC = Search.parse({"trials": 8, "learning_rate": (1e-5, 1.0), "seed": 3})


def test_trials_run_the_pipeline_on_validation_with_the_searchs_seed(tmp_path):
    runs = Runs()
    found = find(SPEC, tmp_path, runs)
    first = runs.pipelines[0]
    assert first.training.learning_rate == PIPELINE.training.learning_rate, "the default comes first"
    for pipeline in runs.pipelines:
        assert (pipeline.score_on, pipeline.seed, pipeline.training.evaluations) == ("validation", 3, 4)
        assert pipeline.techniques == PIPELINE.techniques and pipeline.task == PIPELINE.task
    rates = [trial.learning_rate for trial in found.trials]
    assert len(set(rates)) == 8 and all(1e-5 <= rate <= 1.0 for rate in rates)
    ended = [trial for trial in found.trials if trial.state == "finished"]
    assert found.value == max(trial.value for trial in ended)
    assert (
        found.learning_rate == min(ended, key=lambda trial: abs(math.log10(trial.learning_rate / 0.01))).learning_rate
    )


def test_hopeless_trials_stop_early_and_cost_little(tmp_path):
    runs = Runs()
    found = find(SPEC, tmp_path / "a", runs)
    states = [trial.state for trial in found.trials]
    assert states[:3] == ["finished"] * 3, "three must have run to their end"
    assert "stopped" in states
    for trial in found.trials:
        medians = [t.values[1] for t in found.trials[: trial.number] if t.state == "finished"]
        if trial.state == "stopped" and max(trial.values) == 1:
            assert trial.values[1] < sorted(medians)[len(medians) // 2]
    assert all("median" in trial.reason for trial in found.trials if trial.state == "stopped")
    whole = Runs()
    find(SPEC.model_copy(update={"prune": False}), tmp_path / "b", whole)
    assert len(runs.steps) < len(whole.steps) == 8 * 4


def test_all_searches_begin_alike_and_the_seed_decides():
    trials = [propose(SPEC, [], 5.0, True), propose(SPEC, [], 7.0, True)]
    assert trials[0] == trials[1], "a default outside the range is not tried"
    other = SPEC.model_copy(update={"seed": 4})
    assert propose(other, [], 5.0, True) != trials[0]


def test_a_search_that_is_killed_anywhere_comes_to_the_same(tmp_path):
    whole = find(SPEC, tmp_path / "whole", Runs())
    resumed = 0
    for stop_at in range(1, 20, 3):
        folder = tmp_path / f"killed-{stop_at}"
        for attempt in itertools.count():
            try:
                found = find(SPEC, folder, Runs(stop_at=stop_at if attempt < 2 else None))
                break
            except KeyboardInterrupt:
                resumed += 1
        assert plain(found) == plain(whole) and found.learning_rate == whole.learning_rate
    assert resumed > 8


def test_a_kill_between_a_trials_record_and_its_note_loses_nothing(tmp_path):
    whole = find(SPEC, tmp_path / "whole", Runs())
    folder = tmp_path / "killed"
    Runs()(whole_trial(whole), folder / "trial-000", None)
    assert plain(find(SPEC, folder, Runs())) == plain(whole)


def whole_trial(found):
    training = {**PIPELINE.training.model_dump(), "learning_rate": found.trials[0].learning_rate}
    return PipelineSpec.parse({**PIPELINE.model_dump(), "training": training})


def test_a_finished_search_runs_nothing_and_leaves_no_record(tmp_path):
    found = find(SPEC, tmp_path, Runs())
    again = Runs()
    assert find(SPEC, tmp_path, again) == found and not again.pipelines
    assert not list(tmp_path.rglob("record.json")), "evidence is what was scored on test"
    assert not list(tmp_path.rglob("adaptations"))


def test_trials_that_diverge_are_failed_trials(tmp_path):
    runs = Runs(diverges=1e-3)
    found = find(SPEC, tmp_path, runs)
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert failed and all(trial.learning_rate >= 1e-3 and trial.value is None for trial in failed)
    assert failed[0].reason == "the loss is nan at step 1"
    assert found.learning_rate < 1e-3


def test_a_search_in_which_all_fails_fails_and_can_be_tried_again(tmp_path):
    with pytest.raises(RunError, match=r"none of 8 trials .* the loss is nan"):
        find(SPEC, tmp_path, Runs(diverges=0.0))
    assert not (tmp_path / "result.json").exists()
    forget_failures(tmp_path)
    assert plain(find(SPEC, tmp_path, Runs())) == plain(find(SPEC, tmp_path / "fresh", Runs()))


def test_trials_before_the_first_failed_one_are_kept(tmp_path):
    for number, state in enumerate(["finished", "failed", "finished"]):
        folder = tmp_path / f"trial-{number:03}"
        folder.mkdir()
        (folder / "trial.json").write_text(Trial(number=number, learning_rate=0.1, state=state).to_json())
    forget_failures(tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["trial-000"]


@pytest.mark.parametrize("error", [SaveError("the disk is full"), BusyError("another process runs here")])
def test_a_full_disk_is_no_verdict_on_a_rate(tmp_path, error):
    def run(pipeline, folder, judge):
        raise error

    with pytest.raises(type(error)):
        find(SPEC, tmp_path, run)
    assert not list(tmp_path.rglob("trial.json"))


def test_a_judge_minds_its_own_run_and_lets_the_end_pass(tmp_path):
    judge = Judge(tmp_path / "own", lambda values: f"hopeless with {values}", "accuracy")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "metrics.jsonl").write_text(
        '{"step": 2, "split": "validation", "accuracy": 0.25}\n{"step": 3, "sp'
    )
    judge.refarch_evaluated(folder=tmp_path / "other", step=2, total=4, split="validation")
    judge.refarch_evaluated(folder=tmp_path / "own", step=2, total=4, split="test")
    judge.refarch_evaluated(folder=tmp_path / "own", step=4, total=4, split="validation")
    with pytest.raises(Hopeless, match=r"\{2: 0\.25\}"):
        judge.refarch_evaluated(folder=tmp_path / "own", step=2, total=4, split="validation")


# time left ---------------------------------------------------------------------------------------------------------

LORA, IA3, OTHER = ("lora", "a", "b"), ("ia3", "a", "b"), ("lora", "c", "d")


def test_nothing_is_said_of_the_time_before_anything_has_ended():
    assert Timed().left([LORA]) is None


def test_the_time_left_is_that_of_the_likest_parts():
    timed = Timed()
    for seconds in (10.0, 14.0, 12.0):
        timed.add(LORA, seconds)
    assert timed.left([LORA, LORA]) == Left(24.0, 20.0, 28.0, 1.0)
    assert timed.left([IA3]) == Left(12.0, 10.0, 14.0, 0.0), "another technique on the same task: a guess"
    timed.add(OTHER, 100.0)
    assert timed.left([IA3]) == Left(12.0, 10.0, 14.0, 0.0), "the same task and backbone tell more"
    assert timed.left([LORA, IA3]) == Left(24.0, 20.0, 28.0, 0.5)
    assert timed.left([LORA] * 4, workers=2) == Left(24.0, 20.0, 28.0, 1.0)
    assert timed.left([]) == Left(0.0, 0.0, 0.0, 0.0)


def test_a_part_that_takes_longer_than_expected_makes_the_others_no_shorter():
    timed = Timed()
    timed.add(LORA, 10.0)
    assert timed.left([LORA, LORA], running=LORA, spent=4.0) == Left(16.0, 16.0, 16.0, 1.0)
    assert timed.left([LORA, LORA], running=LORA, spent=400.0) == Left(10.0, 10.0, 10.0, 1.0)


def test_the_time_left_in_words():
    assert str(Left(0.2, 0.1, 0.3, 1.0)) == "nearly done"
    assert str(Left(60, 60, 60, 1.0)) == "about 60 s left"
    assert str(Left(600, 540, 900, 0.5)) == "about 10 min left (9 min to 15 min), some of it a guess"
    assert (duration(89.6), duration(5400), duration(9000)) == ("90 s", "1.5 h", "2.5 h")
    both = Left(10, 8, 12, 1.0) + Left(30, 20, 40, 0.0)
    assert (both.likely, both.low, both.high, both.known) == (40, 28, 52, 0.25)
