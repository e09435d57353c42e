"""Advice: limits kept by structure, an order only as far as evidence goes, and what to measure next."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from refarch_compare.advise.advice import advise
from refarch_compare.advise.candidates import Backbone, Limits, candidates
from refarch_compare.advise.command import amount
from refarch_compare.advise.gaps import seeds_to_tell
from refarch_compare.advise.standing import rank
from refarch_compare.evidence.peft_comparison import import_results
from refarch_compare.evidence.peft_methods import MODELS
from refarch_compare.evidence.row import Row
from refarch_compare.stats.paired import compare
from transformers import AutoConfig, AutoModel

import refarch
from refarch import default_registry
from refarch.cli.app import main
from refarch.errors import UsageError

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
            path=f"{technique}/{seed}/record.json",
        )
        for technique, score in scores.items()
        for seed in range(seeds)
    ]


# --- what structure decides ---


def test_counts_and_merging_are_the_engines_own(every):
    model = AutoModel.from_config(AutoConfig.for_model("bert", **SMALL))
    for name in ("lora", "ia3", "adapter", "vera", "dora", "prompt-tuning", "ln-tuning"):
        adaptation = refarch.attach(model, name)
        assert (every[name].trainable, bool(every[name].stays)) == (
            adaptation.count() + 2 * 33,  # and the head of two labels
            bool(adaptation.merge_reasons()),
        ), name
        adaptation.detach()
    assert every["head-only"].trainable == 2 * 33
    assert every["full"].trainable == every["full"].total == every["lora"].total
    assert every["adapter:pfeiffer"].trainable < every["adapter"].trainable


def test_the_limits_are_kept_and_what_breaks_them_is_said(folder):
    registry = default_registry()
    limits = Limits(trainable=1_500, no_inference_overhead=True)
    advice = advise(TASK, folder, [], limits, registry)
    assert {item.candidate.name for item in advice.items} >= {"lora", "ia3", "ln-tuning"}
    for item in advice.items:
        assert item.candidate.trainable <= 1_500 and not item.candidate.stays
    lora = next(item for item in advice.items if item.candidate.name == "lora")
    assert lora.candidate.options == {"rank": 4} and "rank 4 to keep the budget" in lora.reasons[0]
    assert "merges exactly" in lora.reasons[1]
    assert "not linear" in advice.left_out["adapter"] and "at its smallest" in advice.left_out["full"]
    assert not advice.ranked and advice.verdict.startswith("no ranking: none of the")


def test_a_budget_that_nobody_can_meet_says_the_nearest(folder):
    with pytest.raises(UsageError, match="no installed technique keeps the limits") as error:
        advise(TASK, folder, [], Limits(trainable=10), default_registry())
    assert "nearest: head-only trains 66 parameters at its smallest" in error.value.message
    with pytest.raises(UsageError, match="needs at least .* GB before activations"):
        advise(TASK, folder, [], Limits(memory_bytes=1000), default_registry())


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
    assert first.data()["records"] == [f"{first.candidate.name}/{seed}/record.json" for seed in range(4)]
    unknown = next(item for item in advice.items if item.candidate.name == "adapter")
    assert unknown.tier is None and unknown.reasons[-1].startswith("no record of it")


def test_noise_is_not_ranked():
    ranking = rank(rows_of("b", noise=0.05, lora=0.80, ia3=0.801), ["lora", "ia3"], None, "here")
    assert not ranking.ranked and "within noise" in ranking.why
    assert [standing.tier for standing in ranking.standings] == [None, None]


@pytest.mark.parametrize(("seeds", "why"), [(1, "three blocks"), (2, "three blocks")])
def test_few_seeds_are_not_ranked_however_far_apart(seeds, why):
    ranking = rank(rows_of("b", seeds=seeds, lora=0.9, ia3=0.1), ["lora", "ia3"], None, "here")
    assert not ranking.ranked and why in ranking.why


def test_only_rows_within_the_budget_count_and_the_best_configuration_speaks():
    rows = rows_of("b", lora=0.8, ia3=0.7)
    big = [r.model_copy(update={"trainable_parameters": 10**6, "score": 0.99}) for r in rows if r.technique == "lora"]
    other = [
        r.model_copy(update={"options": {"rank": 2}, "score": r.score + 0.05}) for r in rows if r.technique == "lora"
    ]
    ranking = rank([*rows, *big, *other], ["lora", "ia3"], 1000, "here")
    lora = next(standing for standing in ranking.standings if standing.name == "lora")
    assert lora.best.options == {"rank": 2} and lora.mean.n == 4 and lora.mean.mean < 0.9


def test_other_backbones_and_tasks_inform_but_do_not_rank(folder):
    elsewhere = rows_of("another", lora=0.9, bitfit=0.6)
    advice = advise(TASK, folder, elsewhere, Limits(), default_registry())
    assert not advice.ranked and {item.tier for item in advice.items} == {None}
    lora = next(item for item in advice.items if item.candidate.name == "lora")
    assert any(reason.startswith("this task on other backbones: accuracy 0.9") for reason in lora.reasons)
    assert [gap.name for gap in advice.next[:2]] == ["lora", "bitfit"]
    assert "place 1 elsewhere" in advice.next[0].why


# --- what to measure next ---


def test_missing_and_thin_cells_come_first_with_their_commands(folder):
    rows = rows_of(folder, seeds=2, lora=0.8)
    advice = advise(TASK, folder, rows, Limits(trainable=100), default_registry())
    assert advice.next[0].name == "head-only" and advice.next[0].seeds == 3
    assert advice.next[0].command == f"refarch run --backbone {folder} --technique head-only --task {TASK}"


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
        make_run(tmp_path / f"l{seed}", "lora", backbone=folder, score=0.85 + noise, seed=seed, trainable=600)
        make_run(tmp_path / f"i{seed}", "ia3", backbone=folder, score=0.75 - noise, seed=seed, trainable=500)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_text("{", encoding="utf-8")
    arguments = ["advise", "--task", TASK, "--backbone", folder, "--evidence", str(tmp_path), "--max-trainable", "2K"]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "lora: place 1" in shown.out and "ia3: place 2" in shown.out and "worth measuring next:" in shown.out
    assert "skipped 1 record" in shown.err
    assert main([*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["ranked"] and data["techniques"][0]["name"] == "lora" and data["techniques"][0]["tier"] == 1
    assert len(data["techniques"][0]["records"]) == 3 and len(data["skipped"]) == 1
    assert main(["advise", "--task", TASK, "--backbone", folder, "--max-trainable", "few"]) == 2
    assert "is no amount" in capsys.readouterr().err


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
