"""DoRA: the conformance kit, peft with equal weights, the paper's formula, and what stacks and merges."""

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

import refarch
from refarch import Function
from refarch.errors import CompositionError
from refarch.pipeline import model_on_meta
from refarch.testing import (
    Peers,
    TechniqueConformance,
    expect_equal_weights,
    outputs,
    randomise,
    side_by_side,
    tiny_of,
)

peft = pytest.importorskip("peft")


class TestDora(TechniqueConformance):
    technique = "dora"


class TestDoraOnTheFeedForward(TechniqueConformance):
    technique = "dora"
    families = ("bert", "gpt2", "t5")
    options = {"rank": 3, "alpha": 5, "slots": ["ffn.up", "ffn.down"]}


def _beside_peft(family: str, rank: int, alpha: int) -> Peers:
    def wrap(model: Any, paths: list[str]) -> Any:
        size = {"r": rank, "lora_alpha": alpha}
        config = peft.LoraConfig(use_dora=True, target_modules=paths, fan_in_fan_out=family == "gpt2", **size)
        return peft.get_peft_model(model, config)

    layer = peft.tuners.lora.LoraLayer
    return side_by_side("dora", family, wrap, layer, rank=rank, alpha=alpha)


def _theirs(_: Function, layer: Any) -> dict[str, Any]:
    return {
        "update.down": layer.lora_A["default"].weight,
        "update.up": layer.lora_B["default"].weight,
        "magnitude": layer.lora_magnitude_vector["default"].weight,
    }


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_logits_gradients_and_merged_weights_equal_peft(family: str) -> None:
    expect_equal_weights(_beside_peft(family, 5, 12), _theirs)


def test_the_start_is_that_of_peft() -> None:
    for _, function, layer in _beside_peft("bert", 8, 8).beside:
        torch.testing.assert_close(function.magnitude, layer.lora_magnitude_vector["default"].weight)


def test_a_slice_of_a_fused_projection_is_the_papers_formula() -> None:
    model = tiny_of("gpt2").model()
    adaptation = refarch.attach(model, "dora", rank=2, alpha=6, slots=["attention.value"], layers=[1])
    randomise(adaptation)
    ((_, function),) = adaptation.functions()
    layer = model.transformer.h[1].attn.c_attn
    with torch.no_grad():
        own = layer.weight.T[64:]  # 32 32
        moved = own + 3 * function.update.up @ function.update.down
        wanted = torch.stack([m * row / (row @ row).sqrt() for m, row in zip(function.magnitude, moved, strict=True)])
        whole = torch.cat([layer.weight.T[:64], wanted])
        x = torch.randn(5, 32)
        torch.testing.assert_close(layer(x), x @ whole.T + layer.bias)
        adaptation.merge()
        torch.testing.assert_close(layer.weight.T, whole)


def test_the_norm_gets_no_gradient() -> None:
    """Section 4.3: the gradient of the direction is m / norm times that of the weight, not projected."""
    model = tiny_of("bert").model()
    adaptation = refarch.attach(model, "dora", rank=2, alpha=2, slots=["ffn.up"], layers=[0])
    randomise(adaptation)
    ((_, function),) = adaptation.functions()
    weight = torch.randn(48, 32)
    outer = torch.randn(48, 32)
    (function.transform(weight) * outer).sum().backward()
    with torch.no_grad():
        factor = function.magnitude / (weight + function.update.up @ function.update.down).norm(dim=1)
        torch.testing.assert_close(function.update.up.grad, (factor[:, None] * outer) @ function.update.down.T)


@pytest.mark.parametrize("inner", ["lora", "ia3", "dora"])
def test_it_starts_as_the_identity_on_what_was_attached_before(inner: str) -> None:
    case = tiny_of("gpt2")
    model = case.model()
    batch = case.batch(model)
    below = refarch.attach(model, inner, slots=["attention.value", "ffn.up"])
    randomise(below)
    expected = outputs(model, batch)
    above = refarch.attach(model, "dora", name="above", slots=["attention.value", "ffn.up"])
    torch.testing.assert_close(outputs(model, batch), expected, rtol=1e-5, atol=1e-5)
    randomise(above, seed=8)
    expected = outputs(model, batch)
    with pytest.raises(CompositionError, match="does not commute"):
        above.merge()
    below.merge()
    torch.testing.assert_close(outputs(model, batch), expected, rtol=1e-5, atol=1e-5)
    above.merge()
    torch.testing.assert_close(outputs(model, batch), expected, rtol=1e-5, atol=1e-5)


def test_a_row_of_zeros_stays_finite() -> None:
    case = tiny_of("bert")
    model = case.model()
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.query.weight[3] = 0
    batch = case.batch(model)
    expected = outputs(model, batch)
    refarch.attach(model, "dora")
    torch.testing.assert_close(outputs(model, batch), expected)
    case.loss(model, batch).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_bert_base_has_r_d_in_plus_d_out_and_d_out() -> None:
    model = model_on_meta(BertConfig(), BertModel)
    assert refarch.attach(model, "dora", rank=8).count() == 12 * 2 * (8 * (768 + 768) + 768)
