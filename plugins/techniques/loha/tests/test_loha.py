"""LoHa: the conformance kit, peft with equal weights, counts, and the rank that the product reaches."""

import copy

import pytest
import torch
from transformers import BertConfig, BertModel

import refarch
from refarch.testing import TechniqueConformance, all_tiny, outputs, randomise

peft = pytest.importorskip("peft")

# family -> refarch slots to the ends of the paths that peft wraps; peft has no LoHa for GPT-2's Conv1D
TARGETS: dict[str, dict[str, str]] = {
    "bert": {"attention.query": "self.query", "attention.value": "self.value", "ffn.up": "intermediate.dense"},
    "llama": {"attention.query": "q_proj", "attention.value": "v_proj", "ffn.gate": "gate_proj"},
    "t5": {"attention.query": "SelfAttention.q", "attention.value": "SelfAttention.v", "ffn.up": "DenseReluDense.wi"},
}
PEFT_NAMES = {"up_1": "hada_w1_a", "down_1": "hada_w1_b", "up_2": "hada_w2_a", "down_2": "hada_w2_b"}


class TestLoha(TechniqueConformance):
    technique = "loha"


class TestLohaOnTheFeedForward(TechniqueConformance):
    technique = "loha"
    families = ("bert", "gpt2", "t5")
    options = {"rank": 3, "alpha": 5, "slots": ["ffn.up", "ffn.down"]}


@pytest.mark.parametrize("name", TARGETS)
def test_logits_gradients_and_merged_weights_equal_peft(name: str) -> None:
    (case, *_) = all_tiny([name])
    model = case.model()
    batch = case.batch(model)
    pattern = r".*\.(" + "|".join(end.replace(".", r"\.") for end in TARGETS[name].values()) + ")"
    wrapped = peft.get_peft_model(copy.deepcopy(model), peft.LoHaConfig(r=4, alpha=10, target_modules=pattern)).eval()
    adaptation = refarch.attach(model, "loha", rank=4, alpha=10, slots=list(TARGETS[name]))
    randomise(adaptation, scale=0.3)
    layers = {path: m for path, m in wrapped.named_modules() if isinstance(m, peft.tuners.loha.LoHaLayer)}
    assert len(layers) == len(adaptation.insertions)
    pairs = {}
    for address, function in adaptation.functions():
        layer = next(m for path, m in layers.items() if path.endswith(adaptation.slot_map[address]))
        for own, theirs in PEFT_NAMES.items():
            pairs[f"{address}.{own}"] = parameter = getattr(layer, theirs)["default"]
            with torch.no_grad():
                parameter.copy_(getattr(function, own))
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


def test_the_update_reaches_rank_r_squared() -> None:
    (case, *_) = all_tiny(["gpt2"])
    adaptation = refarch.attach(case.model(), "loha", rank=3)
    randomise(adaptation, scale=1.0)
    for _, function in adaptation.functions():
        assert torch.linalg.matrix_rank(function.delta()) == 9


def test_bert_base_has_2_r_d_in_plus_d_out() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert refarch.attach(model, "loha", rank=8).count() == 12 * 2 * 2 * 8 * (768 + 768)
