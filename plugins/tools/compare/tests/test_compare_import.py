"""peft's published method comparison as evidence."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
from refarch_compare.evidence.peft_comparison import ORIGIN, curve_path, import_results
from refarch_compare.evidence.peft_methods import MODELS, match
from refarch_compare.evidence.store import load

from refarch import default_registry
from refarch.cli import main
from refarch.errors import DataError

PUBLISHED = Path(__file__).resolve().parents[5] / "shared" / "evidence" / "peft-method-comparison"
published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="needs shared/evidence/peft-method-comparison beside the repository"
)
LLAMA = MODELS["meta-llama/Llama-3.2-3B"]
LORA = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "use_rslora": False,
    "use_dora": False,
    "bias": "none",
    "init_lora_weights": True,
    "target_modules": ["v_proj", "q_proj"],
}
RESULT = {
    "run_info": {
        "created_at": "2026-01-01",
        "experiment_name": "lora/llama-3.2-3B-rank4",
        "train_config": {
            "model_id": "meta-llama/Llama-3.2-3B",
            "seed": 0,
            "batch_size": 4,
            "optimizer_type": "AdamW",
            "optimizer_kwargs": {"lr": 1e-4},
        },
        "peft_config": LORA,
        "error_msg": "",
    },
    "train_info": {
        "accelerator_memory_reserved_avg": 10,
        "accelerator_memory_max": 20,
        "accelerator_memory_reserved_99th": 19,
        "train_time": 100.0,
        "file_size": 1234,
        "num_trainable_params": 1000,
        "num_total_params": 3_212_750_824,
        "status": "success",
        "metrics": [
            {"step": 25, "valid accuracy": 0.1, "train loss": 1.0, "note": "text", "train time": math.nan},
            {"step": 50, "test accuracy": 0.25, "train loss": math.inf, "forgetting": 0.01},
        ],
    },
    "meta_info": {
        "package_info": {"peft-version": "0.19", "torch-version": "2.13"},
        "system_info": {"accelerator": "L"},
    },
}


@pytest.fixture
def results(tmp_path):
    """A folder with one result, and a function that adds a changed one."""
    folder = tmp_path / "MetaMathQA"
    folder.mkdir()
    (folder / "lora.json").write_text(json.dumps(RESULT), encoding="utf-8")
    (folder / "unrelated.json").write_text('{"a": 1}', encoding="utf-8")

    def add(name, **changes):
        data = copy.deepcopy(RESULT)
        for path, value in changes.items():
            part, _, key = path.partition("__")
            data[part][key] = value
        (folder / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")

    return folder, add


def test_a_result_becomes_a_marked_record_with_its_provenance(results, tmp_path):
    found = import_results(results[0], tmp_path / "out")
    (row,) = load([tmp_path / "out"]).rows
    assert (row.technique, row.label, row.task, row.metric) == ("lora", "lora rank4", "MetaMathQA", "accuracy")
    assert row.options == {
        "rank": 4,
        "alpha": 8,
        "dropout": 0.0,
        "rank_stabilised": False,
        "slots": ["attention.query", "attention.value"],
    }
    assert row.spec is not None and row.spec.technique.modules[0].workspace == ("attention.query", "attention.value")
    assert (row.score, row.seed, row.steps, row.learning_rate, row.batch_size) == (0.25, 0, 50, 1e-4, 4)
    assert (row.trainable_parameters, row.total_parameters, row.saved_bytes) == (1000, 3_212_749_824, 1234)
    assert (row.peak_memory_bytes, row.seconds_per_step, row.device) == (20, 2.0, "L")
    assert row.measures["forgetting"] == 0.01 and "train loss" not in row.measures
    assert "train loss is inf" in row.provenance
    assert row.imported and row.origin == ORIGIN
    for part in ("MetaMathQA/lora.json", "peft 0.19", "one seed", "Apache-2.0"):
        assert part in row.provenance
    lines = [json.loads(line) for line in curve_path(found.written[0]).read_text(encoding="utf-8").splitlines()]
    assert lines[:2] == [
        {"step": 25, "split": "validation", "accuracy": 0.1},
        {"step": 25, "split": "train", "loss": 1.0},
    ]


def test_importing_again_writes_the_same_files(results, tmp_path):
    def files():
        import_results(results[0], tmp_path / "out")
        return {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    assert files() == files()


def test_an_unknown_method_keeps_its_name_and_has_no_structure(results, tmp_path):
    results[1]("miss", run_info__peft_config={"peft_type": "MISS", "r": 64})
    import_results(results[0], tmp_path / "out")
    row = next(row for row in load([tmp_path / "out"]).rows if row.technique.startswith("peft/"))
    assert (row.technique, row.specs, row.score) == ("peft/miss", (), 0.25)


def test_failed_and_malformed_results_are_named_and_skipped(results, tmp_path, capsys):
    _, add = results
    add("failed", train_info__status="failed")
    add("empty", train_info__metrics=[])
    add("metric", train_info__metrics=[{"step": 1, "bleu": 0.1}])
    add("backbone", run_info__train_config={**RESULT["run_info"]["train_config"], "model_id": "other/model"})
    (results[0] / "cut.json").write_text("{", encoding="utf-8")
    found = import_results(results[0], tmp_path / "out")
    assert len(found.rows) == 1
    reasons = {Path(item.path).stem: item.reason for item in found.problems}
    assert set(reasons) == {"failed", "empty", "metric", "backbone", "cut"}
    assert "status 'failed'" in reasons["failed"] and "'other/model'" in reasons["backbone"]
    with pytest.raises(DataError, match="no result of peft's"):
        import_results(tmp_path / "out", tmp_path / "again")
    code = main(["compare", "import", "peft-method-comparison", str(results[0]), "--out", str(tmp_path / "out")])
    shown = capsys.readouterr()
    assert code == 0 and "wrote 1 records" in shown.out and "skipped" in shown.err and "cut.json" in shown.err


def test_wrong_use_is_said_in_words(tmp_path, capsys):
    assert main(["compare", "import", "peft-method-comparisn", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "'peft-method-comparison'" in capsys.readouterr().err
    assert main(["compare", "import", "peft-method-comparison", str(tmp_path / "no"), "--out", str(tmp_path)]) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "technique"),
    [
        ({}, "lora"),
        ({"use_dora": True}, "dora"),
        ({"init_lora_weights": "mica"}, "peft/lora"),
        ({"use_bdlora": {"nblocks": 2}}, "peft/lora"),
        ({"bias": "all"}, "peft/lora"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "peft/lora"),
        ({"a_setting_of_next_year": 3}, "peft/lora"),
    ],
)
def test_what_has_no_counterpart_is_not_matched(changes, technique):
    found = match({**LORA, **changes}, {"optimizer_type": "AdamW"}, LLAMA)
    assert found.technique == technique
    assert bool(found.note) == technique.startswith("peft/")


@published
def test_all_published_results_are_imported(tmp_path):
    found = import_results(PUBLISHED, tmp_path)
    assert (len(found.rows), found.problems) == (94, [])
    rows = load([tmp_path]).rows
    assert load([tmp_path]).problems == () and len(rows) == 94
    assert sum(row.task == "MetaMathQA" for row in rows) == 63
    matched = [row for row in rows if not row.technique.startswith("peft/")]
    assert len(matched) >= 40
    installed = set(default_registry().names("technique"))
    assert [row.name for row in matched if row.technique in installed and not row.specs] == []
    by_label = {row.name: row for row in rows if row.task == "MetaMathQA"}
    lora = by_label["lora rank32"]
    assert lora.score == 0.4783927217589083 and lora.trainable_parameters == 9_175_040
    assert by_label["lora rank32-lorafa"].options["preset"] == "lora-fa"
    assert by_label["ia3"].options["slots"] == ["ffn.down:input", "attention.key", "attention.value"]
    assert by_label["oft rank32"].options["block_size"] == 96
    assert len(by_label) == 63
    assert all(row.imported and "one seed" in row.provenance for row in rows)
