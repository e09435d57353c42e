"""(IA)3: the conformance kit, the paper's parameter count, and peft with equal factors."""

import copy
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, T5Config, T5Model

import refarch
from refarch.testing import TechniqueConformance, Tiny, all_tiny, outputs, randomise

# family -> the ends of the paths that peft wraps, and of those among them whose input is rescaled
TARGETS = {
    "bert": (r".*(self\.key|self\.value|layer\.\d+\.output\.dense)", r".*layer\.\d+\.output\.dense"),
    "llama": (r".*(k_proj|v_proj|down_proj)", r".*down_proj"),
    "t5": (r".*(\.k|\.v|\.wo)", r".*\.wo"),
}


class TestIA3(TechniqueConformance):
    technique = "ia3"


def with_peft(model: Any, targets: str, feedforward: str, fused: bool = False) -> tuple[Any, dict[str, Any]]:
    """The model under peft's (IA)3, and its layers by path in the base."""
    peft = pytest.importorskip("peft")
    config = peft.IA3Config(target_modules=targets, feedforward_modules=feedforward, fan_in_fan_out=fused)
    wrapped = peft.get_peft_model(copy.deepcopy(model), config).eval()
    layers = {path: m for path, m in wrapped.named_modules() if isinstance(m, peft.tuners.ia3.IA3Layer)}
    return wrapped, layers


def compare(tiny: Tiny, model: Any, wrapped: Any) -> None:
    """Equal logits, with the gradients computed; the factors at work."""
    batch = tiny.batch(model)
    expected = outputs(wrapped, batch)
    torch.testing.assert_close(outputs(model, batch), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, outputs(tiny.model(), batch), atol=1e-3)
    tiny.loss(model, batch).backward()
    tiny.loss(wrapped, batch).backward()


@pytest.mark.parametrize("family", TARGETS)
def test_logits_gradients_and_merged_weights_equal_peft(family: str) -> None:
    tiny = all_tiny([family])[0]
    model = tiny.model()
    wrapped, layers = with_peft(model, *TARGETS[family])
    adaptation = refarch.attach(model, "ia3")
    randomise(adaptation)
    assert len(layers) == len(adaptation.insertions)
    pairs = []
    for address, function in adaptation.functions():
        path = adaptation.slot_map[address]
        (layer,) = (layer for name, layer in layers.items() if name.endswith(path))
        theirs = layer.ia3_l["default"]
        theirs.data.copy_(function.factors.detach().view_as(theirs))
        pairs.append((function.factors, theirs))
    compare(tiny, model, wrapped)
    for own, theirs in pairs:
        torch.testing.assert_close(own.grad, theirs.grad.flatten(), rtol=1e-5, atol=1e-5)
    adaptation.merge()
    adaptation.commit()
    merged = wrapped.merge_and_unload().state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, merged[name], rtol=1e-5, atol=1e-6)


def test_on_a_fused_projection_it_equals_peft_with_ones_for_the_query() -> None:
    tiny = all_tiny(["gpt2"])[0]
    model = tiny.model()
    wrapped, layers = with_peft(model, r".*(c_attn|mlp\.c_proj)", r".*mlp\.c_proj", fused=True)
    adaptation = refarch.attach(model, "ia3")
    randomise(adaptation)
    functions = dict(adaptation.functions())
    pairs = []
    for index in range(2):
        key, value, inner = (
            functions[f"factors.decoder.{index}.{slot}"].factors
            for slot in ("attention.key", "attention.value", "ffn.down_input")
        )
        fused = next(m.ia3_l["default"] for path, m in layers.items() if path.endswith(f"h.{index}.attn.c_attn"))
        down = next(m.ia3_l["default"] for path, m in layers.items() if path.endswith(f"h.{index}.mlp.c_proj"))
        fused.data.copy_(torch.cat([torch.ones(32), key.detach(), value.detach()]).view_as(fused))
        down.data.copy_(inner.detach().view_as(down))
        pairs += [(key, fused, slice(32, 64)), (value, fused, slice(64, 96)), (inner, down, slice(None))]
    compare(tiny, model, wrapped)
    for own, theirs, rows in pairs:
        torch.testing.assert_close(own.grad, theirs.grad.flatten()[rows], rtol=1e-5, atol=1e-5)


def test_bert_base_has_4608_a_layer() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert refarch.attach(model, "ia3").count() == 12 * 4608


def test_a_decoder_with_cross_attention_has_4_d_kv_and_d_ff_a_layer() -> None:
    with torch.device("meta"):
        model = T5Model(T5Config(d_model=64, d_kv=8, num_heads=6, d_ff=100, num_layers=3))
    assert refarch.attach(model, "ia3").count() == 3 * (2 * 48 + 100) + 3 * (4 * 48 + 100)
