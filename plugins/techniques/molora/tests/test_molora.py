"""MoLoRA and MoV: the conformance kit, the paper's formulas written out, counts; no function of their own."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

import refarch
from refarch.plugins import default_registry
from refarch.testing import TechniqueConformance, all_tiny, outputs, randomise


class TestMolora(TechniqueConformance):
    technique = "molora"
    options = {"experts": 3, "rank": 2}


class TestMov(TechniqueConformance):
    technique = "mov"
    options = {"experts": 3}


class TestMoloraTop2(TechniqueConformance):
    technique = "molora"
    options = {"preset": "top-2", "experts": 4, "rank": 2, "dropout": 0.1, "slots": ["attention.query", "ffn.down"]}
    families = ("bert", "gpt2", "t5")


class TestMovTop2(TechniqueConformance):
    technique = "mov"
    options = {"preset": "top-2", "experts": 4}
    families = ("bert", "llama")


def softmax(scores: Tensor) -> Tensor:
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


def hook(model: Any, path: str, edit: Any) -> None:
    model.get_submodule(path).register_forward_hook(lambda _, args, y: edit(args[0], y))


def compare(model: Any, plain: Any, adaptation: refarch.Adaptation) -> dict[str, Tensor]:
    """Equal logits, and equal gradients of all parameters, which both models share; returns the gradients."""
    tiny = all_tiny(["bert"])[0]
    batch = tiny.batch(model)
    torch.testing.assert_close(outputs(model, batch), outputs(plain, batch), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(outputs(model, batch), outputs(tiny.model(), batch), atol=1e-3)
    own = list(adaptation.parameters())
    found = torch.autograd.grad(tiny.loss(model, batch), own)
    for a, b in zip(found, torch.autograd.grad(tiny.loss(plain, batch), own), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    return dict(zip([name for name, _ in adaptation.named_parameters()], found, strict=True))


@pytest.mark.parametrize("preset", [None, "top-2"])
def test_molora_is_the_papers_formula(preset: str | None) -> None:
    tiny = all_tiny(["bert"])[0]
    model, plain = tiny.model(), tiny.model()
    chosen = {"experts": 4, "rank": 2, "alpha": 6.0, "slots": ["attention.query", "ffn.down"], "preset": preset}
    adaptation = refarch.attach(model, "molora", **chosen)
    randomise(adaptation, scale=0.4)
    used: set[str] = set()
    for address, function in adaptation.functions():
        p = dict(function.named_parameters())

        def edit(x: Tensor, y: Tensor, p: dict[str, Tensor] = p, address: str = address) -> Tensor:
            s = softmax(x @ p["router.weight"].t())
            if preset:
                s = torch.where(s >= s.sort(dim=-1).values[..., -2:-1], s, torch.zeros(()))
            for e in range(4):
                if s[..., e].any():
                    used.update(f"{address}.experts.{e}.{name}" for name in ("down", "up"))
                y = y + s[..., e, None] * 6.0 / 2 * (x @ p[f"experts.{e}.down"].t() @ p[f"experts.{e}.up"].t())
            return y

        hook(plain, f"bert.{adaptation.slot_map[address]}", edit)
    gradients = compare(model, plain, adaptation)
    trained = {name for name, gradient in gradients.items() if gradient.any() and "router" not in name}
    # An expert that no token chose gets no gradient; after the first layer, the classifier reads one token alone.
    assert trained <= used and {n for n in trained if ".0." in n} == {n for n in used if ".0." in n}
    assert all(gradient.any() for name, gradient in gradients.items() if "router" in name)


def test_mov_is_the_papers_formula() -> None:
    tiny = all_tiny(["bert"])[0]
    model, plain = tiny.model(), tiny.model()
    adaptation = refarch.attach(model, "mov", experts=3, slots=["attention.key", "attention.value"])
    randomise(adaptation, scale=0.4)
    for address, function in adaptation.functions():
        p = dict(function.named_parameters())

        def edit(x: Tensor, y: Tensor, p: dict[str, Tensor] = p) -> Tensor:
            s = softmax(y @ p["router.weight"].t())
            return y * sum(s[..., e, None] * p[f"experts.{e}.factors"] for e in range(3))

        hook(plain, f"bert.{adaptation.slot_map[address]}", edit)
    assert all(gradient.any() for gradient in compare(model, plain, adaptation).values())


def test_experts_of_molora_start_different_and_those_of_mov_at_one() -> None:
    model = all_tiny(["bert"])[0].model()
    for name in ("molora", "mov"):
        for _, function in refarch.attach(model, name, experts=3).functions():
            values = [next(expert.parameters()) for expert in function.experts]
            assert all(torch.equal(value, values[0]) == (name == "mov") for value in values[1:])
            assert function.router.weight.std().item() == pytest.approx(0.02, rel=0.3)


def test_bert_base_has_the_counts_of_the_docstring() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    d, ff = 768, 3072
    low_rank = 10 * 4 * (4 * 2 * d + 2 * (d + ff)) + 10 * (4 * d + d + ff)
    assert refarch.attach(model, "molora").count() == 12 * low_rank
    assert refarch.attach(model, "mov").count() == 12 * 30 * 2 * (2 * d + ff)


def test_the_plugin_has_no_function_of_its_own() -> None:
    functions = [default_registry().technique(name).modules[0].function for name in ("molora", "mov")]
    assert functions == ["refarch_lora.function:LoRA", "refarch_ia3.function:Factors"]
