"""DoRA: the conformance kit, peft with equal weights, the paper's formula, and what stacks and merges."""

import copy
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

import refarch
from refarch.errors import CompositionError
from refarch.testing import TechniqueConformance, Tiny, all_tiny, outputs, randomise

peft = pytest.importorskip("peft")

# family -> refarch slots to the ends of the paths that peft wraps
TARGETS: dict[str, dict[str, str]] = {
    "bert": {"attention.query": "self.query", "attention.value": "self.value", "ffn.up": "intermediate.dense"},
    "gpt2": {"attention.output": "attn.c_proj", "ffn.up": "mlp.c_fc"},
    "llama": {"attention.query": "q_proj", "attention.value": "v_proj", "ffn.gate": "gate_proj"},
    "t5": {"attention.query": "SelfAttention.q", "attention.value": "SelfAttention.v", "ffn.up": "DenseReluDense.wi"},
}


class TestDora(TechniqueConformance):
    technique = "dora"


class TestDoraOnTheFeedForward(TechniqueConformance):
    technique = "dora"
    families = ("bert", "gpt2", "t5")
    options = {"rank": 3, "alpha": 5, "slots": ["ffn.up", "ffn.down"]}


def tiny(name: str) -> Tiny:
    return all_tiny([name])[0]


def with_peft(model: Any, name: str, **config: Any) -> Any:
    pattern = r".*\.(" + "|".join(end.replace(".", r"\.") for end in TARGETS[name].values()) + ")"
    return peft.get_peft_model(
        model, peft.LoraConfig(use_dora=True, target_modules=pattern, fan_in_fan_out=name == "gpt2", **config)
    )


@torch.no_grad()
def give_peft_our_values(adaptation: refarch.Adaptation, wrapped: Any) -> dict[str, Any]:
    """Peft's parameter for each of ours, with our values."""
    layers = {path: m for path, m in wrapped.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    assert len(layers) == len(adaptation.insertions)
    pairs = {}
    for address, function in adaptation.functions():
        layer = next(m for path, m in layers.items() if path.endswith(adaptation.slot_map[address]))
        theirs = {
            "update.down": layer.lora_A["default"].weight,
            "update.up": layer.lora_B["default"].weight,
            "magnitude": layer.lora_magnitude_vector["default"].weight,
        }
        assert dict(function.named_parameters()).keys() == theirs.keys()
        for name, own in function.named_parameters():
            theirs[name].copy_(own)
            pairs[f"{address}.{name}"] = theirs[name]
    return pairs


@pytest.mark.parametrize("name", TARGETS)
def test_logits_gradients_and_merged_weights_equal_peft(name: str) -> None:
    case = tiny(name)
    model = case.model()
    batch = case.batch(model, (7, 7))
    wrapped = with_peft(copy.deepcopy(model), name, r=5, lora_alpha=12)
    adaptation = refarch.attach(model, "dora", rank=5, alpha=12, slots=list(TARGETS[name]))
    randomise(adaptation)
    pairs = give_peft_our_values(adaptation, wrapped.eval())
    torch.testing.assert_close(outputs(model, batch), outputs(wrapped, batch), rtol=1e-5, atol=1e-5)
    case.loss(model, batch).backward()
    case.loss(wrapped, batch).backward()
    for key, parameter in adaptation.named_parameters():
        assert parameter.grad is not None and parameter.grad.any()
        torch.testing.assert_close(parameter.grad, pairs[key].grad, rtol=1e-5, atol=1e-5)
    adaptation.merge()
    adaptation.commit()
    merged = wrapped.merge_and_unload().state_dict()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, merged[key], rtol=1e-5, atol=1e-5)


def test_the_start_is_that_of_peft() -> None:
    model = tiny("bert").model()
    wrapped = with_peft(copy.deepcopy(model), "bert")
    adaptation = refarch.attach(model, "dora", slots=list(TARGETS["bert"]))
    layers = {path: m for path, m in wrapped.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    for address, function in adaptation.functions():
        layer = next(m for path, m in layers.items() if path.endswith(adaptation.slot_map[address]))
        torch.testing.assert_close(function.magnitude, layer.lora_magnitude_vector["default"].weight)


def test_a_slice_of_a_fused_projection_is_the_papers_formula() -> None:
    model = tiny("gpt2").model()
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
    model = tiny("bert").model()
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
    case = tiny("gpt2")
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
    case = tiny("bert")
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
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert refarch.attach(model, "dora", rank=8).count() == 12 * 2 * (8 * (768 + 768) + 768)
