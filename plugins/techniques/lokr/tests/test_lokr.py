"""LoKr: the conformance kit, peft with equal weights, how widths are divided, and counts."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from refarch_lokr.function import divide
from transformers import BertConfig, BertModel

import refarch
from refarch.testing import TechniqueConformance, all_tiny, outputs, randomise

peft = pytest.importorskip("peft")

# family -> refarch slots to the ends of the paths that peft wraps; peft has no LoKr for GPT-2's Conv1D
TARGETS: dict[str, dict[str, str]] = {
    "bert": {"attention.query": "self.query", "attention.value": "self.value", "ffn.up": "intermediate.dense"},
    "llama": {"attention.query": "q_proj", "attention.value": "v_proj", "ffn.gate": "gate_proj"},
    "t5": {"attention.query": "SelfAttention.q", "attention.value": "SelfAttention.v", "ffn.up": "DenseReluDense.wi"},
}
PEFT_NAMES = {
    "first.matrix": "lokr_w1",
    "first.up": "lokr_w1_a",
    "first.down": "lokr_w1_b",
    "second.matrix": "lokr_w2",
    "second.up": "lokr_w2_a",
    "second.down": "lokr_w2_b",
}
OPTIONS: list[dict[str, Any]] = [
    {"rank": 3},  # D decomposed, C not
    {"rank": 8},  # both whole
    {"rank": 1, "factor": 4, "decompose_both": True},  # both decomposed
]


class TestLokr(TechniqueConformance):
    technique = "lokr"


class TestLokrDecomposedTwice(TechniqueConformance):
    technique = "lokr"
    families = ("bert", "gpt2", "t5")
    options = {"rank": 1, "alpha": 3, "factor": 4, "decompose_both": True, "slots": ["ffn.up", "ffn.down"]}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_logits_gradients_and_merged_weights_equal_peft(options: dict[str, Any], name: str) -> None:
    (case, *_) = all_tiny([name])
    model = case.model()
    batch = case.batch(model)
    pattern = r".*\.(" + "|".join(end.replace(".", r"\.") for end in TARGETS[name].values()) + ")"
    config = peft.LoKrConfig(
        r=options["rank"],
        alpha=10,
        decompose_factor=options.get("factor", -1),
        decompose_both=options.get("decompose_both", False),
        target_modules=pattern,
    )
    wrapped = peft.get_peft_model(copy.deepcopy(model), config).eval()
    adaptation = refarch.attach(model, "lokr", alpha=10, slots=list(TARGETS[name]), **options)
    randomise(adaptation, scale=0.3)
    layers = {path: m for path, m in wrapped.named_modules() if isinstance(m, peft.tuners.lokr.LoKrLayer)}
    assert len(layers) == len(adaptation.insertions)
    pairs = {}
    for address, function in adaptation.functions():
        layer = next(m for path, m in layers.items() if path.endswith(adaptation.slot_map[address]))
        for own, parameter in function.named_parameters():
            pairs[f"{address}.{own}"] = theirs = getattr(layer, PEFT_NAMES[own])["default"]
            with torch.no_grad():
                theirs.copy_(parameter)
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


@given(st.integers(1, 5000), st.one_of(st.none(), st.integers(1, 80)))
def test_a_width_is_divided_as_peft_does(width: int, factor: int | None) -> None:
    from peft.tuners.lokr.layer import factorization

    u, v = divide(width, factor)
    assert (u, v) == factorization(width, -1 if factor is None else factor)
    assert u * v == width and (u <= math.isqrt(width) or u == factor)


def test_a_prime_width_still_has_an_update() -> None:
    assert divide(127, None) == (1, 127)


def test_bert_base_has_the_small_factor_and_a_low_rank_one() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert refarch.attach(model, "lokr", rank=8).count() == 12 * 2 * (24 * 24 + 8 * (32 + 32))
