"""``refarch library compose``: said beforehand, and what is made computes the expression."""

from __future__ import annotations

import json

import pytest
import torch
from refarch_library import adding
from transformers import AutoModelForCausalLM

import refarch as platform

IDS = torch.tensor([[4, 5, 6, 7], [7, 5, 4, 9]])


@pytest.fixture
def entries(library, make_run):
    for name, technique, seed in (("a", "lora", 0), ("b", "lora", 1), ("c", "ia3", 0)):
        adding.add(library, make_run("writing", technique, seed=seed, backbone="gpt2", max_steps=20), name=name)
    return library


@torch.no_grad()
def logits(root, attach):
    model = AutoModelForCausalLM.from_pretrained(root / "gpt2").eval()
    attach(model)
    return model(IDS).logits


def test_a_composition_is_judged_made_and_loaded(entries, root, refarch, tmp_path):
    expression = "stack(c, sum(a: 0.5, b: 0.25))"
    code, out, _ = refarch("library", "compose", expression, "--out", tmp_path / "out", "--json")
    told = json.loads(out)
    assert (code, told["verdict"]) == (0, "exact")
    got = logits(root, lambda model: platform.load_composition(model, tmp_path / "out"))
    folders = {name: entries.path / name / entries.get(name).parts[0].folder for name in "abc"}
    want = logits(root, lambda model: platform.compose(model, expression, folders))
    assert torch.equal(got, want)
    assert not torch.allclose(got, logits(root, lambda model: None), atol=1e-3)


def test_weights_are_combined_into_one_adaptation_with_the_error_said(entries, root, refarch, tmp_path):
    _, out, _ = refarch("library", "compose", "svd(a, b, rank=4)", "--out", tmp_path / "out", "--json")
    told = json.loads(out)
    assert told["verdict"] == "approximate" and 0 < told["findings"][0]["error"] < 1
    assert logits(root, lambda model: platform.load(model, tmp_path / "out")).isfinite().all()


def test_what_is_impossible_is_said_with_the_slot(entries, library, make_run, refarch, tmp_path):
    adding.add(library, make_run("writing", "prompt-tuning", backbone="gpt2", max_steps=20), name="p")
    code, out, _ = refarch("library", "compose", "sum(a, p)")
    assert code == 0 and "impossible: sum: part 'p' at slot 'inputs' (integration form" in out and "hint: " in out
    code, _, err = refarch("library", "compose", "sum(a, p)", "--out", str(tmp_path / "out"))
    assert code == 2 and "impossible" in err and not (tmp_path / "out").exists()
    code, _, err = refarch("library", "compose", "sum(a, q)")
    assert code == 2 and "no entry 'q'" in err
