"""Measured efficiency: turns and ratios, bytes, times to a score, and what is written beside the runs."""

from __future__ import annotations

import json
import time

import pytest
import refarch_adapter.function
import torch
import yaml
from refarch_compare import naming
from refarch_compare.evidence.store import load
from refarch_compare.measure import measuring
from refarch_compare.measure.curves import curve, reached
from refarch_compare.measure.measuring import Subject, measure
from refarch_compare.measure.memory import peak_bytes
from refarch_compare.measure.report import Setting, Spread
from refarch_compare.storages import Saved
from transformers import AutoModelForSequenceClassification

from refarch import default_registry
from refarch.cli import main

SMALL = ["--batch", "2", "--tokens", "8", "--rounds", "2", "--steps", "1", "--threads", "1", "--quiet"]
NAP = 0.01


def subject(name, head=False):
    technique = naming.parse(name, default_registry()).technique
    return Subject(name, ((technique.name, technique),), head=head)


@pytest.fixture
def slow(monkeypatch):
    """Adapters whose every call takes a while longer."""
    class_ = refarch_adapter.function.Bottleneck
    forward = class_.forward

    def nap(self, *inputs):
        time.sleep(NAP)
        return forward(self, *inputs)

    monkeypatch.setattr(class_, "forward", nap)


@pytest.fixture
def turns(monkeypatch):
    """Whose turn it was, in order, with those of the round that warms up."""
    found = []
    turn = measuring._turn

    def noted(bench, one, timed):
        found.append(one.subject.label if one.subject else "frozen")
        turn(bench, one, timed)

    monkeypatch.setattr(measuring, "_turn", noted)
    return found


def test_all_take_turns_and_a_slow_module_shows_in_the_ratios(little, slow, turns):
    model = AutoModelForSequenceClassification.from_pretrained(little / "model")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    setting = Setting(batch=2, tokens=8, rounds=4, steps=2)
    subjects = [subject("adapter:pfeiffer", head=True), subject("ia3", head=True)]
    report = measure(model, subjects, setting, default_registry(), backbone="tiny", auto_class="x")
    rounds = [turns[at : at + 3] for at in range(0, len(turns), 3)]
    assert len(rounds) == 1 + 4 and all(set(one) == {"frozen", "adapter:pfeiffer", "ia3"} for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1  # none is always first
    naps, plain = report.measured
    assert naps.inference_seconds.median - report.frozen.inference_seconds.median > 2 * NAP  # a call in each layer
    assert naps.step_seconds.median - report.frozen.step_seconds.median > 2 * NAP
    assert naps.inference_ratio.median > 1 + NAP / report.frozen.inference_seconds.median
    assert naps.inference_ratio.median > 2 * plain.inference_ratio.median
    assert naps.trainable_parameters - naps.module_parameters == 2 * 32 + 2  # the head
    assert naps.peak_bytes > naps.saved_activation_bytes > 0 and naps.swap_seconds and naps.load_seconds.median > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_ratio_is_to_the_frozen_backbone_of_the_same_round():
    one, frozen = measuring._Turns(subject("lora")), measuring._Turns(None)
    frozen.step, frozen.call = [1.0, 3.0, 9.0], [1.0, 1.0, 1.0]  # a machine that gets slower and slower
    one.step, one.call, one.load = [2.0, 6.0, 18.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]
    found = measuring._measured(one, frozen)
    assert found.step_ratio == Spread(median=2, low=2, high=2)
    assert found.inference_ratio == Spread(median=2, low=1.5, high=2.5)
    assert found.step_seconds.median == 6 and found.swap_seconds is None


def test_kept_bytes_are_those_of_activations_each_once():
    x, weight = torch.randn(5, 3), torch.randn(3, 7, requires_grad=True)
    saved = Saved([x, weight])
    with saved.hooks():
        y = torch.tanh(x @ weight)  # keeps x and the weight, which do not count, and its result: 5 x 7 floats
        (y * y.view(5, 7)).sum()  # keeps the same storage again
    assert saved.bytes == 5 * 7 * 4


def test_the_peak_is_the_most_at_any_time_and_not_the_sum():
    held = torch.zeros(1000)

    def work():
        for size in (100_000, 200_000):
            torch.ones(size) + 1  # two of them at once

    got = peak_bytes(work, torch.device("cpu"), [held, held[10:]])
    assert 4 * (1000 + 2 * 200_000) <= got < 4 * (1000 + 2 * 200_000) + 10_000


@pytest.mark.parametrize(
    ("greater", "values", "target", "step"),
    [(True, (0.5, 0.7, 0.6, 0.9), 0.7, 20), (False, (3.0, 1.0, 2.0, 0.5), 0.9, 40), (True, (0.5, 0.6), 0.8, None)],
)
def test_a_target_is_reached_at_the_first_evaluation_that_is_as_good(tmp_path, greater, values, target, step):
    lines = [
        json.dumps({"split": "validation", "step": 10 * n, "seconds": 1.5 * n, "score": value})
        for n, value in enumerate(values, 1)
    ]
    others = ['{"split": "train", "step": 5, "loss": 1}', '{"split": "validation", "step": 15, "score": NaN}', "[]"]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*others, *reversed(lines), '{"split": "val']))
    found = reached(curve(tmp_path, "score"), target, greater)
    assert found.step == step and found.seconds == (step and 0.15 * step)
    assert found.best == (max if greater else min)(values) and found.trained == 1.5 * len(values)
    assert ("steps_to_score_" in str(found.measures("score"))) == (step is not None)
    assert curve(tmp_path / "nowhere", "score") == []


def test_runs_are_measured_and_the_figures_stand_beside_their_records(little, study, tmp_path, capsys):
    spec = study(techniques=["lora"], training={"max_steps": 4, "batch_size": 8, "threads": 1, "evaluations": 2})
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**spec, "seeds": 2}))
    assert (
        main(["compare", "run", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), "--quiet", "--report"])
        == 0
    )
    assert str(tmp_path / "out" / "report.html") in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The study study" in page and "study.json --out again" in page and "accuracy (validation)" in page
    (tmp_path / "out" / "runs" / "broken").mkdir()
    (tmp_path / "out" / "runs" / "broken" / "record.json").write_text("{")
    capsys.readouterr()
    assert main(["compare", "measure", str(tmp_path / "out"), *SMALL, "--target", "0.01", "--json"]) == 0
    said = capsys.readouterr()
    data = json.loads(said.out)
    assert "skipped 1 record" in said.err and "broken" in data["skipped"][0]["path"]
    (report,) = data["reports"]
    (lora,) = report["measured"]  # both seeds are one configuration
    assert len(lora["runs"]) == 2 and len(data["targets"]) == 2
    rows = load([tmp_path / "out"], default_registry()).rows
    assert len(rows) == 2
    for row in rows:
        assert row.measures["step_ratio"] == lora["step_ratio"]["median"]
        assert row.measures["steps_to_accuracy_0.01"] == 2 and row.measures["seconds_to_accuracy_0.01"] > 0
    assert main(["compare", "measure", str(tmp_path / "out"), "--target", "2", "--no-timing"]) == 0
    assert "not reached" in capsys.readouterr().out
    (row, _) = load([tmp_path / "out"], default_registry()).rows
    assert row.measures["reached_accuracy_2"] == 0 and "step_ratio" in row.measures  # what was there stays


def test_techniques_are_measured_by_name_and_one_that_does_not_fit_fails_alone(little, tmp_path, capsys):
    names = ["--backbone", str(little / "model"), "--technique", "ia3", "--technique", "head-only"]
    assert main(["compare", "measure", *names, *SMALL, "--out", str(tmp_path / "all.json")]) == 1
    said = capsys.readouterr()
    assert "ia3" in said.out and "frozen backbone" in said.out
    assert "1 could not be measured" in said.err and "head-only" in said.err and "--task" in said.err
    (report,) = json.loads((tmp_path / "all.json").read_text())["reports"]
    assert [one["label"] for one in report["measured"]] == ["ia3"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to measure"),
        (["--backbone", "minilm"], "--technique"),
        (["x", "--technique", "lora"], "without runs"),
        (["--backbone", "minilm", "--technique", "lora", "--target", "1"], "metrics of runs"),
        (["--backbone", "minilm", "--technique", "lroa"], "lora"),
        (["--backbone", "minilm", "--technique", "lora:rank=x"], "rank"),
        (["x", "--no-timing"], "--target"),
        (["nowhere"], "nowhere"),
        (["x", "--rounds", "1"], "--rounds"),
    ],
)
def test_wrong_use_is_said_without_a_traceback(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "measure", *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_a_run_that_was_never_evaluated_on_the_way_has_no_time_to_a_target(make_run, tmp_path, capsys):
    make_run(tmp_path / "run")
    assert main(["compare", "measure", str(tmp_path), "--target", "0.5", "--no-timing"]) == 2
    assert "training.evaluations" in capsys.readouterr().err
