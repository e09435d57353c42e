"""VeRA: the conformance kit, what is frozen and shared, counts, and peft with equal vectors."""

import copy
from typing import Any

import pytest
import torch
from refarch_vera.function import VeRA
from transformers import BertConfig, BertModel

import refarch
from refarch.testing import TechniqueConformance, all_tiny, outputs, randomise

BERT = all_tiny(["bert"])[0]
# family -> slots of one shape, and the ends of the paths that peft wraps
TARGETS = {
    "bert": (("attention.query", "attention.value"), r".*self\.(query|value)"),
    "gpt2": (("ffn.up",), r".*mlp\.c_fc"),
    "llama": (("attention.query", "attention.output"), r".*(q_proj|o_proj)"),
    "t5": (("attention.query", "attention.value"), r".*SelfAttention\.(q|v)"),
}


class TestVera(TechniqueConformance):
    technique = "vera"
    options = {"rank": 16}


class TestVeraOnTheFeedForward(TechniqueConformance):
    technique = "vera"
    options = {"rank": 8, "dropout": 0.1, "slots": ["ffn.up", "ffn.down"]}
    families = ("bert", "gpt2", "llama", "t5")


@pytest.mark.parametrize("family", TARGETS)
def test_logits_gradients_and_merged_weights_equal_peft(family: str) -> None:
    peft = pytest.importorskip("peft")
    tiny = all_tiny([family])[0]
    slots, pattern = TARGETS[family]
    model = tiny.model()
    config = peft.VeraConfig(r=6, target_modules=pattern, fan_in_fan_out=family == "gpt2")
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    adaptation = refarch.attach(model, "vera", rank=6, slots=slots)
    randomise(adaptation)
    layers = {path: m for path, m in theirs.named_modules() if isinstance(m, peft.tuners.vera.VeraLayer)}
    pairs: dict[str, Any] = {}
    with torch.no_grad():
        for address, function in adaptation.functions():
            path = adaptation.slot_map[address]
            (layer,) = (layer for name, layer in layers.items() if name.endswith(path))
            function.down.copy_(layer.vera_A["default"])
            function.up.copy_(layer.vera_B["default"])
            layer.vera_lambda_d["default"].copy_(function.d)
            layer.vera_lambda_b["default"].copy_(function.b)
            name = next(n for n, p in adaptation.named_parameters() if p is function.d).removesuffix("d")
            pairs |= {f"{name}d": layer.vera_lambda_d["default"], f"{name}b": layer.vera_lambda_b["default"]}
    assert len(layers) == len(adaptation.insertions)
    batch = tiny.batch(model)
    expected = outputs(theirs, batch)
    torch.testing.assert_close(outputs(model, batch), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, outputs(tiny.model(), batch), atol=1e-3)
    tiny.loss(model, batch).backward()
    tiny.loss(theirs, batch).backward()
    own = {name: parameter for name, parameter in adaptation.named_parameters() if parameter.requires_grad}
    assert own.keys() == pairs.keys()
    for name, parameter in own.items():
        torch.testing.assert_close(parameter.grad, pairs[name].grad, rtol=1e-5, atol=1e-5)
    adaptation.merge()
    adaptation.commit()
    merged = theirs.merge_and_unload().state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, merged[name], rtol=1e-5, atol=1e-6)


def test_one_frozen_pair_serves_the_whole_model() -> None:
    adaptation = refarch.attach(BERT.model(), "vera", rank=4)
    assert len({(id(function.down), id(function.up)) for _, function in adaptation.functions()}) == 1
    assert adaptation.count(trainable=False) - adaptation.count() == 4 * (32 + 32)


def test_each_shape_has_a_pair_of_its_own() -> None:
    adaptation = refarch.attach(BERT.model(), "vera", rank=4, slots=["ffn.up", "ffn.down"])
    pairs = {(id(function.down), id(function.up)) for _, function in adaptation.functions()}
    assert len(pairs) == 2
    assert adaptation.count(trainable=False) - adaptation.count() == 2 * 4 * (32 + 48)


def test_bert_base_has_r_plus_d_out_a_matrix() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert refarch.attach(model, "vera", rank=256).count() == 24 * (256 + 768)


def test_the_start_is_the_papers() -> None:
    for _, function in refarch.attach(BERT.model(), "vera", rank=64).functions():
        assert isinstance(function, VeRA)
        assert bool((function.d == 0.1).all()) and not function.b.any()
        for matrix in (function.down, function.up):
            bound = (6 / matrix.shape[1]) ** 0.5
            assert matrix.abs().max() <= bound
            assert matrix.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
