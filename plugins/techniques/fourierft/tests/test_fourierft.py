"""FourierFT: the conformance kit, peft with equal weights, the sum of waves written out, counts."""

import copy
import math

import pytest
import torch
from transformers import BertConfig, BertModel

import refarch
from refarch.errors import SpecError
from refarch.testing import TechniqueConformance, all_tiny, outputs, randomise

peft = pytest.importorskip("peft")

# family -> refarch slots to the ends of the paths that peft wraps
TARGETS: dict[str, dict[str, str]] = {
    "bert": {"attention.query": "self.query", "attention.value": "self.value", "ffn.up": "intermediate.dense"},
    "gpt2": {"attention.output": "attn.c_proj", "ffn.up": "mlp.c_fc"},
    "llama": {"attention.query": "q_proj", "attention.value": "v_proj", "ffn.gate": "gate_proj"},
    "t5": {"attention.query": "SelfAttention.q", "attention.value": "SelfAttention.v", "ffn.up": "DenseReluDense.wi"},
}


class TestFourierFT(TechniqueConformance):
    technique = "fourierft"
    options = {"coefficients": 40, "alpha": 10}


class TestFourierFTOnTheFeedForward(TechniqueConformance):
    technique = "fourierft"
    families = ("bert", "gpt2", "t5")
    options = {"coefficients": 30, "alpha": 20, "slots": ["ffn.up", "ffn.down"]}


@pytest.mark.parametrize("name", TARGETS)
def test_logits_gradients_and_merged_weights_equal_peft(name: str) -> None:
    (case, *_) = all_tiny([name])
    model = case.model()
    batch = case.batch(model)
    pattern = r".*\.(" + "|".join(end.replace(".", r"\.") for end in TARGETS[name].values()) + ")"
    config = peft.FourierFTConfig(n_frequency=25, scaling=30, target_modules=pattern, fan_in_fan_out=name == "gpt2")
    wrapped = peft.get_peft_model(copy.deepcopy(model), config).eval()
    adaptation = refarch.attach(model, "fourierft", coefficients=25, alpha=30, slots=list(TARGETS[name]))
    randomise(adaptation)
    layers = {path: m for path, m in wrapped.named_modules() if isinstance(m, peft.tuners.fourierft.FourierFTLayer)}
    assert len(layers) == len(adaptation.insertions)
    pairs = {}
    for address, function in adaptation.functions():
        layer = next(m for path, m in layers.items() if path.endswith(adaptation.slot_map[address]))
        width = function.shape[1]
        layer.indices["default"] = torch.stack([function.entries // width, function.entries % width])
        pairs[f"{address}.coefficients"] = parameter = layer.fourierft_spectrum["default"]
        with torch.no_grad():
            parameter.copy_(function.coefficients)
    torch.testing.assert_close(outputs(model, batch), outputs(wrapped, batch), rtol=1e-5, atol=1e-5)
    case.loss(model, batch).backward()
    case.loss(wrapped, batch).backward()
    for key, theirs in pairs.items():
        own = dict(adaptation.named_parameters())[key]
        assert own.grad is not None and own.grad.any()
        torch.testing.assert_close(own.grad, theirs.grad, rtol=1e-5, atol=1e-5)
    adaptation.merge()
    adaptation.commit()
    merged = wrapped.merge_and_unload().state_dict()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, merged[key], rtol=1e-5, atol=1e-5)


def test_the_update_is_the_sum_of_waves() -> None:
    """Equation 3 of the paper, its real part, entry by entry."""
    (case, *_) = all_tiny(["llama"])
    adaptation = refarch.attach(case.model(), "fourierft", coefficients=5, slots=["attention.value"], layers=[0])
    ((_, function),) = adaptation.functions()
    rows, columns = function.shape
    assert (rows, columns) == (16, 32)
    wanted = torch.zeros(rows, columns)
    for c, entry in zip(function.coefficients.tolist(), function.entries.tolist(), strict=True):
        j, k = divmod(entry, columns)
        for p in range(rows):
            for q in range(columns):
                wanted[p, q] += c * math.cos(2 * math.pi * (p * j / rows + q * k / columns)) / (rows * columns)
    torch.testing.assert_close(function.delta().detach(), wanted, atol=1e-6, rtol=1e-5)


def test_the_layers_share_places_but_no_values() -> None:
    (case, *_) = all_tiny(["llama"])
    adaptation = refarch.attach(case.model(), "fourierft", coefficients=40)
    by_slot: dict[str, list[torch.nn.Module]] = {}
    for address, function in adaptation.functions():
        by_slot.setdefault(address.split(".", 3)[3], []).append(function)
    assert len(by_slot) == 2
    for first, second in by_slot.values():
        assert first.entries is second.entries and not first.entries.requires_grad
        assert first.entries.unique().numel() == 40
        assert not torch.equal(first.coefficients, second.coefficients)


def test_more_coefficients_than_the_matrix_has_are_refused() -> None:
    (case, *_) = all_tiny(["llama"])
    with pytest.raises(SpecError, match="1025 coefficients exceed the matrix's own, 1024"):
        refarch.attach(case.model(), "fourierft", coefficients=1025)


def test_bert_base_has_n_a_matrix() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    adaptation = refarch.attach(model, "fourierft")
    assert adaptation.count() == 12 * 2 * 1000
    assert adaptation.count(trainable=False) == 12 * 2 * 1000 + 2 * 1000
