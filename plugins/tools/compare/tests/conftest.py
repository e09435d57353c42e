"""Records for the tests of evidence: whole run folders, made without running anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from refarch import PipelineSpec, RunRecord


@pytest.fixture(scope="session")
def make_run():
    """A function that writes a finished run's folder and returns the path of its record."""

    def make(
        folder,
        technique="lora",
        *,
        options=None,
        score=0.8,
        seed=0,
        backbone="minilm",
        task="lexicon-polarity",
        trainable=10_000,
        **fields,
    ):
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        choices = technique if isinstance(technique, list) else [{"name": technique, "options": options or {}}]
        pipeline = PipelineSpec.parse({"backbone": backbone, "techniques": choices, "task": task, "seed": seed})
        record = RunRecord.parse(
            {
                "pipeline": pipeline.model_dump(),
                "score": score,
                "metric": "accuracy",
                "greater_is_better": True,
                "metrics": {"accuracy": score, "loss": 0.5},
                "baselines": {"majority": 0.5},
                "seeds": {"run": seed, "head": 1, "modules": 2, "data": 3},
                "times": {"load": 1.0, "train": 20.0, "evaluate": 2.0},
                "trainable_parameters": trainable,
                "module_parameters": max(0, trainable - 1_000),
                "total_parameters": 22_700_000,
                "peak_memory_bytes": 10**9,
                "saved_bytes": 4 * trainable,
                "steps": 100,
                "device": "cpu",
                "threads": 1,
                "versions": {"refarch": "0.1.0"},
                "adaptations": [],
                "started": "2026-01-01T00:00:00+00:00",
                "finished": "2026-01-01T00:01:00+00:00",
                **fields,
            }
        )
        (path / "record.json").write_text(record.to_json(), encoding="utf-8")
        return path / "record.json"

    return make


@pytest.fixture(scope="session")
def little(tmp_path_factory):
    """A folder with a tiny BERT, trained on nothing, and two tasks of 96 examples that it can learn."""
    import random

    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from refarch.testing import tiny_tokenizer

    root = tmp_path_factory.mktemp("little")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(root / "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=48, **shape)
        BertForSequenceClassification(config).save_pretrained(root / "model")
    chance = random.Random(0)
    for name, (good, bad) in {"first": ("abcd", "wxyz"), "second": ("aeiou", "bcdfg")}.items():
        lines = ["text,label"]
        for i in range(96):
            word = "".join(chance.choice(good if i % 2 else bad) for _ in range(5))
            lines.append(f"{word} {''.join(chance.choice('klmn') for _ in range(4))},{'pos' if i % 2 else 'neg'}")
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def study(little):
    """A function that makes a study's plain data: one technique, one task, one seed, three steps, unless said."""

    def make(*, tasks=("first",), **fields):
        return {
            "techniques": ["lora"],
            "tasks": [
                {"name": "text-classification", "label": name, "options": {"train": str(little / f"{name}.csv")}}
                for name in tasks
            ],
            "backbones": [{"name": str(little / "model"), "label": "tiny"}],
            "seeds": 1,
            "training": {"max_steps": 3, "batch_size": 8, "threads": 1, "log_every": 1},
            **fields,
        }

    return make
