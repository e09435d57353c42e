"""Runs that share a backbone and data give bit for bit what separate runs give."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from refarch import PipelineSpec, Pool, default_registry
from refarch.errors import RunError
from refarch.pipeline import load_backbone, run
from refarch.plugins import resolve_pipeline

TECHNIQUES = ("lora", "prefix-tuning", "full")
SAME = ("score", "metrics", "baselines", "seeds", "steps", "trainable_parameters", "total_parameters", "examples")


def results(path: Path) -> tuple[dict, dict]:
    record = json.loads((path / "record.json").read_text())
    tensors = {
        f"{file.parent.name}/{name}": tensor
        for file in (path / "adaptations").glob("*/*.safetensors")
        for name, tensor in load_file(file).items()
    }
    return {key: record[key] for key in SAME}, tensors


def expect_same(one: Path, other: Path) -> None:
    (record, tensors), (expected, wanted) = results(one), results(other)
    assert record == expected
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in tensors.items())


@pytest.fixture
def loads(monkeypatch):
    """Counts what is loaded and encoded."""
    from refarch_text_classification import TextClassification

    counts = {"backbone": 0, "encode": 0}
    encode = TextClassification.encode

    def counted_load(*arguments):
        counts["backbone"] += 1
        return load_backbone(*arguments)

    def counted_encode(self, tokenizer):
        counts["encode"] += 1
        return encode(self, tokenizer)

    monkeypatch.setattr("refarch.pipeline.pool.load_backbone", counted_load)
    monkeypatch.setattr(TextClassification, "encode", counted_encode)
    return counts


@pytest.mark.slow
def test_runs_on_one_backbone_equal_separate_runs(folder, pipeline, tmp_path, loads):
    values = pipeline(folder, max_steps=3, evaluate_every=2)
    cells = {
        f"{name}-{seed}-{precision}": PipelineSpec.parse(
            {
                **values,
                "techniques": [name],
                "seed": seed,
                "training": {**values["training"], "precision": precision, "gradient_checkpointing": seed == 1},
            }
        )
        for seed in (0, 1)
        for name in TECHNIQUES
        for precision in (("bfloat16", "float32") if name == "lora" else ("float32",))
    }
    pool = Pool()
    for name, spec in cells.items():
        run(spec, tmp_path / "pooled" / name, pool=pool)
    assert loads == {"backbone": 1, "encode": 2}, "each seed makes splits of its own"
    for name, spec in cells.items():
        run(spec, tmp_path / "separate" / name)
        expect_same(tmp_path / "pooled" / name, tmp_path / "separate" / name)


@pytest.mark.slow
def test_seeds_that_read_the_same_share_what_is_encoded(folder, pipeline, tmp_path, loads):
    values = pipeline(folder, max_steps=1)
    values["task"]["options"]["split_seed"] = 3
    pool = Pool()
    for seed in (0, 1, 2):
        spec = PipelineSpec.parse({**values, "seed": seed})
        run(spec, tmp_path / f"pooled-{seed}", pool=pool)
    assert loads == {"backbone": 1, "encode": 1}
    run(spec, tmp_path / "separate")
    expect_same(tmp_path / "pooled-2", tmp_path / "separate")


@pytest.mark.slow
def test_a_run_that_fails_leaves_the_backbone_as_it_was(folder, pipeline, tmp_path, loads, caplog):
    bad = pipeline(folder, learning_rate=1e30, max_grad_norm=1e30, warmup=0.0, schedule="constant")
    good = PipelineSpec.parse(pipeline(folder, max_steps=2))
    pool = Pool()
    with pytest.raises(RunError, match="loss is"):
        run(PipelineSpec.parse(bad), tmp_path / "bad", pool=pool)
    run(good, tmp_path / "pooled", pool=pool)
    assert loads["backbone"] == 1
    assert not caplog.records
    run(good, tmp_path / "separate")
    expect_same(tmp_path / "pooled", tmp_path / "separate")


@pytest.mark.slow
def test_a_backbone_that_a_run_has_changed_is_loaded_again(folder, pipeline, tmp_path, loads, caplog):
    spec = PipelineSpec.parse(pipeline(folder, max_steps=2))
    pool = Pool()
    with pool.turn():
        base = pool.take(resolve_pipeline(spec, default_registry()), default_registry())
        with torch.no_grad():
            next(iter(base.model.parameters())).add_(1e-3)
    assert "has changed the backbone" in caplog.text
    run(spec, tmp_path / "pooled", pool=pool)
    assert loads["backbone"] == 2
    run(spec, tmp_path / "separate")
    expect_same(tmp_path / "pooled", tmp_path / "separate")
