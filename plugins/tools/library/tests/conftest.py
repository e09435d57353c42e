"""Runs that are finished in a second: three heads on one tiny encoder, and a tiny decoder."""

from __future__ import annotations

import json
import random

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from refarch import PipelineSpec, run
from refarch.testing import tiny_tokenizer

SHAPES = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}
TASKS = {
    "polarity": {"name": "text-classification", "train": "polarity.csv"},
    "topic": {"name": "text-classification", "train": "topic.csv"},
    "names": {"name": "token-classification", "train": "names.conll"},
    "writing": {"name": "text-generation", "train": "writing.jsonl", "max_length": 40, "max_target": 8},
    "writing-more": {
        "name": "text-generation",
        "train": "writing.jsonl",
        "train_limit": 8,
        "split_seed": 3,
        "max_length": 40,
        "max_target": 8,
    },
}


@torch.no_grad()
def make_model(folder, family, auto, **changes):
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"max_position_embeddings": 48} if family == "bert" else {"bos_token_id": 2, "eos_token_id": 3}
        config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **shape, **{**SHAPES[family], **changes})
        model = auto.from_config(config)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)


def write_data(root):
    chance = random.Random(0)
    for name, labels in {"polarity": ("bad", "good"), "topic": ("art", "law", "war")}.items():
        lines = ["text,label"]
        for i in range(48):
            label = labels[i % len(labels)]
            lines.append(f"{''.join(chance.choice(label) for _ in range(5))} {chance.choice('klmn')},{label}")
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sentences = [f"{chance.choice(['ann', 'bob'])}\tB-per\nsat\tO\nin\tO\n{chance.choice(['oslo', 'rome'])}\tB-loc"]
    sentences += [f"ann{i}\tB-per\nsaw\tO\nrome{i}\tB-loc" for i in range(24)]
    (root / "names.conll").write_text("\n\n".join(sentences) + "\n", encoding="utf-8")
    rows = [{"source": f"{a}{b}", "target": f"{b}{a}"} for a in "abcdef" for b in "klmn"]
    (root / "writing.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def make_backbone():
    """Writes a tiny model of random weights and its tokenizer."""
    return make_model


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """A folder with models and data."""
    root = tmp_path_factory.mktemp("library")
    make_model(root / "bert", "bert", AutoModel)
    make_model(root / "gpt2", "gpt2", AutoModelForCausalLM)
    write_data(root)
    return root


@pytest.fixture(scope="session")
def make_run(root):
    """A function that runs a pipeline once and gives its folder."""

    def make(task, technique="lora", seed=0, backbone="bert", **training):
        names = "+".join([technique] if isinstance(technique, str) else technique)
        folder = root / "runs" / f"{task}-{names}-{seed}-{backbone}"
        if not (folder / "record.json").is_file():
            options = {k: (str(root / v) if k == "train" else v) for k, v in TASKS[task].items() if k != "name"}
            pipeline = {
                "backbone": str(root / backbone),
                "techniques": [technique] if isinstance(technique, str) else list(technique),
                "task": {"name": TASKS[task]["name"], "options": options},
                "training": {"max_steps": 4, "learning_rate": 0.02, "batch_size": 8, "threads": 1, **training},
                "seed": seed,
            }
            run(PipelineSpec.parse(pipeline), folder)
        return folder

    return make


@pytest.fixture
def library(tmp_path, monkeypatch):
    """An empty library, which is also the default one."""
    from refarch_library.store import Library

    monkeypatch.setenv("REFARCH_LIBRARY", str(tmp_path / "library"))
    return Library()


@pytest.fixture
def refarch(capsys):
    """Runs the command line in this process: exit code, output, errors."""
    from refarch.cli import main

    def call(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
