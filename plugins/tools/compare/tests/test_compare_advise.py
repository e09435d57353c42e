"""Advice: limits kept by structure, an order only as far as evidence goes, and what to measure next."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from refarch_compare.advise.advice import advise
from refarch_compare.advise.candidates import Limits, candidates
from refarch_compare.advise.command import amount
from refarch_compare.advise.costing import Backbone
from refarch_compare.advise.gaps import seeds_to_tell
from refarch_compare.advise.standing import HERE, Scope, rank
from refarch_compare.cost.budget import nearest
from refarch_compare.evidence.peft_comparison import import_results
from refarch_compare.evidence.peft_methods import MODELS
from refarch_compare.evidence.row import Row
from refarch_compare.evidence.store import load
from refarch_compare.stats.paired import compare
from transformers import AutoConfig, AutoModel

import refarch
from refarch import Option, default_registry
from refarch.cli import main
from refarch.errors import SpecError, UnknownNameError, UsageError

PUBLISHED = Path(__file__).resolve().parents[5] / "shared" / "evidence" / "peft-method-comparison"
TASK = "lexicon-polarity"
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("small")
    AutoConfig.for_model("bert", **SMALL).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def every(folder):
    found, _ = candidates(Backbone(folder, TASK, default_registry()), Limits())
    return {candidate.name: candidate for candidate in found}


def rows_of(backbone, seeds=4, noise=0.004, **scores):
    random = np.random.default_rng(0)
    levels = random.normal(0, 0.02, seeds)
    return [
        Row(
            technique=technique.replace("_", "-"),
            backbone=backbone,
            task=TASK,
            metric="accuracy",
            score=score + levels[seed] + random.normal(0, noise),
            seed=seed,
            trainable_parameters=500,
            peak_memory_bytes=10**9,
            learning_rate=1e-3,
            specs=(default_registry().technique(technique.replace("_", "-")).configure({}),),
            path=f"{technique}/{seed}/record.json",
        )
        for technique, score in scores.items()
        for seed in range(seeds)
    ]


def scope(rows, where=HERE):
    return Scope(where, rows[0].origin, tuple(rows))


def every_row(row):
    return True


# --- what structure decides ---


def test_counts_and_merging_are_the_engines_own(every):
    model = AutoModel.from_config(AutoConfig.for_model("bert", **SMALL))
    for name in ("lora", "ia3", "adapter", "vera", "dora", "prompt-tuning", "ln-tuning"):
        adaptation = refarch.attach(model, name)
        cost = every[name].cost
        assert (cost.trainable, cost.modules, bool(cost.stays)) == (
            adaptation.count() + 2 * 33,  # and the head of two labels
            adaptation.count(trainable=False) + 2 * 33,
            bool(adaptation.merge_reasons()),
        ), name
        adaptation.detach()
    assert every["head-only"].cost.trainable == 2 * 33
    assert every["full"].cost.trainable == every["full"].total == every["lora"].total
    assert every["lora"].cost.least_memory == 4 * (every["lora"].total + 4 * every["lora"].cost.trainable)
    assert every["adapter:pfeiffer"].cost.trainable < every["adapter"].cost.trainable
    assert all(f"{name}:{preset}" in every for name in ("lora", "adapter") for preset in _presets(name))


def _presets(name):
    return default_registry().technique(name).presets


def test_the_limits_are_kept_and_what_breaks_them_is_said(folder):
    registry = default_registry()
    limits = Limits(trainable=1_500, no_inference_overhead=True)
    advice = advise(TASK, folder, [], limits, registry)
    assert {item.candidate.name for item in advice.items} >= {"lora", "ia3", "ln-tuning"}
    for item in advice.items:
        assert item.candidate.cost.trainable <= 1_500 and not item.candidate.cost.stays
    lora = next(item for item in advice.items if item.candidate.name == "lora")
    assert lora.candidate.options == {"rank": 5} and "rank 5 to keep the budget" in lora.reasons[0]
    assert lora.candidate.cost.trainable == 5 * 256 + 66  # rank 6 would train 1,602
    assert "merges exactly" in lora.reasons[1]
    assert "not linear" in advice.left_out["adapter"] and advice.left_out["full"].startswith("trains ")
    assert not advice.ranked and advice.verdict.startswith("no ranking: none of the")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 9), st.sets(st.integers(1, 300)))
def test_the_largest_size_keeps_the_budget(most, minimum, odd):
    size = Option(name="rank", type="integer", default=300, minimum=minimum, size=True, help="r")
    spec = default_registry().technique("lora").model_copy(update={"options": (size,)})

    def count(choice):
        if choice["rank"] in odd:
            raise SpecError("does not divide the width")
        return choice["rank"]

    found = nearest(spec, {}, count, most, at_most=True)
    assert found.parameters == found.value not in odd
    possible = [value for value in range(minimum, most + 1) if value not in odd]
    assert found.parameters == (max(possible) if possible else min(set(range(minimum, 600)) - odd))


def test_a_budget_that_nobody_can_meet_says_the_nearest(folder):
    with pytest.raises(UsageError, match="no installed technique keeps the limits") as error:
        advise(TASK, folder, [], Limits(trainable=10), default_registry())
    assert "nearest: head-only trains 66 parameters;" in error.value.message
    with pytest.raises(UsageError, match=r"needs at least .* GB before activations"):
        advise(TASK, folder, [], Limits(memory_bytes=1000), default_registry())


def test_an_unknown_task_names_the_nearest(folder):
    with pytest.raises(UnknownNameError, match="know a task 'lexicon-polarty'") as error:
        advise("lexicon-polarty", folder, [], Limits(), default_registry())
    assert TASK in (error.value.hint or "")
    with pytest.raises(UsageError, match="no folder"):
        advise(TASK, "/nowhere/at/all", [], Limits(), default_registry())


# --- what evidence decides ---


def test_clear_differences_are_ranked_and_close_ones_share_a_place(folder):
    rows = rows_of(folder, lora=0.85, ia3=0.851, bitfit=0.70)
    advice = advise(TASK, folder, rows, Limits(), default_registry())
    places = {item.candidate.name: item.tier for item in advice.items if item.tier is not None}
    assert places == {"lora": 1, "ia3": 1, "bitfit": 3}
    assert advice.ranked and "2 of 3 pairs are told apart" in advice.verdict
    assert [item.candidate.name for item in advice.items][2] == "bitfit"
    first = advice.items[0]
    assert any("this task on this backbone: accuracy 0.8" in reason and "4 seeds" in reason for reason in first.reasons)
    assert "better than bitfit" in first.reasons
    assert f"within noise of {advice.items[1].candidate.name}" in first.reasons
    assert first.data()["records"] == [f"{first.candidate.name}/{seed}/record.json" for seed in range(4)]
    unknown = next(item for item in advice.items if item.candidate.name == "adapter")
    assert unknown.tier is None and unknown.reasons[-1].startswith("no record of it")


def test_noise_is_not_ranked():
    ranking = rank(scope(rows_of("b", noise=0.05, lora=0.80, ia3=0.801)), every_row)
    assert not ranking.ranked and "within noise" in ranking.why
    assert [standing.tier for standing in ranking.standings] == [None, None]


def test_what_is_not_ranked_stands_in_no_order_of_scores(folder):
    rows = rows_of(folder, seeds=2, lora=0.9, ia3=0.1)
    cheap = [r.model_copy(update={"trainable_parameters": 5}) if r.technique == "ia3" else r for r in rows]
    ranking = rank(scope(cheap), every_row)
    assert not ranking.ranked and [standing.name for standing in ranking.standings] == ["ia3", "lora"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_are_not_ranked_however_far_apart(seeds):
    ranking = rank(scope(rows_of("b", seeds=seeds, lora=0.9, ia3=0.1)), every_row)
    assert not ranking.ranked and "three blocks" in ranking.why


def test_of_several_configurations_the_best_speaks_and_that_is_said():
    rows = rows_of("b", lora=0.8, ia3=0.7)
    other = [
        r.model_copy(update={"learning_rate": 3e-3, "score": r.score + 0.05}) for r in rows if r.technique == "lora"
    ]
    ranking = rank(scope([*rows, *other]), every_row)
    lora = next(standing for standing in ranking.standings if standing.name == "lora")
    assert {row.learning_rate for row in lora.rows} == {3e-3} and lora.mean.n == 4
    assert "the best of 2 configurations, so a little flattered" in lora.words()


def test_a_measured_configuration_is_what_is_advised_and_must_keep_the_limits(folder):
    lora = default_registry().technique("lora")
    rows = rows_of(folder, lora=0.80, ia3=0.70)

    def again(score, seen, options):
        update = {"options": options, "specs": (lora.configure(options),), **seen}
        return [r.model_copy(update={**update, "score": r.score + score}) for r in rows if r.technique == "lora"]

    rows += again(0.05, {}, {"rank": 2, "alpha": 4.0})
    rows += again(0.15, {"trainable_parameters": 10**6}, {"rank": 64})  # over the budget by its record
    rows += again(0.14, {}, {"rank": 32})  # and by its structure: it has a budget's worth of parameters on paper alone
    rows += again(0.13, {"peak_memory_bytes": 10**11}, {"rank": 1})
    advice = advise(TASK, folder, rows, Limits(trainable=1500, memory_bytes=10**10), default_registry())
    first = next(item for item in advice.items if item.candidate.name == "lora")
    assert first.tier == 1 and first.candidate.options == {"rank": 2, "alpha": 4.0}
    assert first.candidate.cost.trainable == 2 * 256 + 66
    assert "best of" not in " ".join(first.reasons)  # rank 8, the default, does not keep the budget either
    assert any(reason.startswith("measured with rank 2, alpha 4.0, learning rate 0.001") for reason in first.reasons)


def test_other_backbones_and_tasks_inform_but_do_not_rank(folder):
    elsewhere = rows_of("another", lora=0.9, bitfit=0.6)
    advice = advise(TASK, folder, elsewhere, Limits(), default_registry())
    assert not advice.ranked and {item.tier for item in advice.items} == {None}
    lora = next(item for item in advice.items if item.candidate.name == "lora")
    assert any(reason.startswith("this task on other backbones: accuracy 0.9") for reason in lora.reasons)
    assert [gap.name for gap in advice.next[:2]] == ["lora", "bitfit"]
    assert "place 1 for this task on other backbones" in advice.next[0].why
    assert any("another" in note and "--recorded-as" in note for note in advice.notes)


def test_imported_rows_are_marked_and_never_ranked_against_runs(folder):
    runs = rows_of(folder, lora=0.8, ia3=0.7)
    others = [
        r.model_copy(update={"origin": "imported: them", "score": r.score + 0.2, "technique": name})
        for r in runs
        for name in ["bitfit" if r.technique == "ia3" else "lora"]
    ]
    advice = advise(TASK, folder, [*others, *runs], Limits(), default_registry())
    places = {item.candidate.name: item.tier for item in advice.items if item.tier is not None}
    assert places == {"lora": 1, "ia3": 2}
    reasons = next(item for item in advice.items if item.candidate.name == "lora").reasons
    assert any(
        r.startswith("this task on this backbone (imported: them)") and "4 imported records" in r for r in reasons
    )


def test_compositions_and_other_metrics_are_left_out_and_said(folder):
    rows = rows_of(folder, lora=0.8, ia3=0.7)
    both = rows[0].model_copy(update={"technique": "lora+ia3", "specs": rows[0].specs * 2})
    loss = rows[0].model_copy(update={"metric": "loss", "greater_is_better": False, "seed": 9})
    advice = advise(TASK, folder, [*rows, both, loss], Limits(), default_registry())
    assert advice.ranked
    assert advice.notes == (
        "1 record of other metrics than accuracy left out",
        "1 of the records are of compositions, which say nothing of one technique alone",
    )


# --- what to measure next ---


def test_thin_cells_come_first_then_what_is_structurally_far(folder):
    rows = rows_of(folder, seeds=2, lora=0.8)
    advice = advise(TASK, folder, rows, Limits(), default_registry())
    first, second, *_ = advice.next
    assert (first.name, first.seeds) == ("lora", 1) and "2 seeds here, and 3 tell noise from more" in first.why
    assert first.command == f"refarch run --backbone {folder} --technique lora --task {TASK} --seed 2"
    assert "structurally 0." in second.why and second.name not in ("lora", "dora", "adalora")
    assert len({gap.name for gap in advice.next}) == len(advice.next) == 5


def test_a_run_is_repeated_by_its_own_pipeline(folder, make_run, tmp_path):
    for seed in (0, 1):
        path = make_run(tmp_path / "it's" / str(seed), "lora", backbone=folder, seed=seed)
        record = json.loads(path.read_text(encoding="utf-8"))
        path.with_name("pipeline.json").write_text(json.dumps(record["pipeline"]), encoding="utf-8")
    advice = advise(TASK, folder, load([tmp_path]).rows, Limits(), default_registry())
    words = shlex.split(advice.next[0].command)
    assert words == ["refarch", "run", f"{tmp_path}/it's/0/pipeline.json", "--seed", "2"]
    assert main([*words[1:], "--dry-run"]) == 0


def test_the_seeds_that_a_difference_needs_are_estimated():
    first = dict(enumerate([0.80, 0.82, 0.78, 0.83, 0.81]))
    second = dict(enumerate([0.79, 0.80, 0.79, 0.80, 0.80]))
    (pair,) = compare({"a": first, "b": second})
    assert pair.verdict == "within noise"
    needed = seeds_to_tell(pair)
    assert needed is not None
    assert needed == pytest.approx((2.8 * pair.difference.spread / pair.difference.mean) ** 2 - 5, abs=1)
    (clear,) = compare({"a": {i: 0.9 + i * 1e-3 for i in range(5)}, "b": {i: 0.5 + i * 2e-3 for i in range(5)}})
    assert seeds_to_tell(clear) is None


# --- the command ---


def test_amounts():
    assert [amount(text) for text in ("500", "0.5M", "24GB", "16GiB", "1,000")] == [
        500,
        500_000,
        24 * 10**9,
        2**34,
        1000,
    ]
    for wrong in ("", "many", "3 parsecs", "-1"):
        with pytest.raises(UsageError, match="is no amount"):
            amount(wrong)


def test_the_command_answers_people_and_machines(folder, make_run, tmp_path, capsys):
    for seed, noise in enumerate((0.001, -0.001, 0.0)):
        make_run(
            tmp_path / f"l{seed}",
            "lora",
            options={"rank": 2},
            backbone=folder,
            score=0.85 + noise,
            seed=seed,
            trainable=600,
        )
        make_run(tmp_path / f"i{seed}", "ia3", backbone=folder, score=0.75 - noise, seed=seed, trainable=500)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_text("{", encoding="utf-8")
    arguments = ["advise", "--task", TASK, "--backbone", folder, "--evidence", str(tmp_path), "--max-trainable", "2K"]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "lora (rank 2): place 1" in shown.out and "ia3: place 2" in shown.out
    assert "worth measuring next:" in shown.out and "more within the limits (--top shows more of them)" in shown.out
    assert "skipped 1 record" in shown.err and "bad/record.json" in shown.err
    assert main([*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["ranked"] and data["techniques"][0]["name"] == "lora" and data["techniques"][0]["tier"] == 1
    assert data["techniques"][0]["options"] == {"rank": 2} and data["techniques"][0]["trainable_parameters"] == 578
    assert len(data["techniques"][0]["records"]) == 3 and len(data["skipped"]) == 1
    assert main([*arguments[:5], "--max-trainable", "few"]) == 2
    assert "is no amount" in capsys.readouterr().err
    assert main([*arguments[:5], "--evidence", str(tmp_path / "bad"), "--max-trainable", "2K"]) == 2
    assert "no readable record below" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([*arguments[:5], "--evidence", str(tmp_path / "empty")]) == 2
    assert "no record below" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="needs shared/evidence/peft-method-comparison beside the repository")
def test_imported_evidence_is_marked_and_one_seed_ranks_nothing(tmp_path, capsys):
    import_results(PUBLISHED, tmp_path / "evidence")
    hub_id = "meta-llama/Llama-3.2-3B"
    config = dict(MODELS[hub_id].config)
    AutoConfig.for_model(config.pop("model_type"), **config).save_pretrained(tmp_path / "llama")
    arguments = ["advise", "--task", "MetaMathQA", "--backbone", str(tmp_path / "llama"), "--recorded-as", hub_id]
    limits = ["--max-trainable", "10M", "--no-inference-overhead"]
    assert main([*arguments, *limits, "--evidence", str(tmp_path / "evidence"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert not data["ranked"] and "three blocks" in data["verdict"]
    lora = next(item for item in data["techniques"] if item["name"] == "lora")
    assert lora["imported_records"] == 1 and lora["tier"] is None
    assert any("imported: peft method comparison" in reason for reason in lora["reasons"])
    assert data["measure_next"][0]["why"] == "only imported records here, of 1 seed"
    assert not any(gap["command"] for gap in data["measure_next"])
    assert data["notes"] == ["no task 'MetaMathQA' is installed, so no commands are given to measure more"]
