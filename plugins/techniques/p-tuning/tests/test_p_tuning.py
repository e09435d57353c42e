"""P-tuning: the conformance kit for both encoders, folding, and peft's prompt encoder with equal weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from refarch_p_tuning.function import EncodedPrompt
from transformers import BertConfig, BertModel

import refarch
from refarch.testing import TechniqueConformance, Tiny, all_tiny, outputs, randomise

LENGTH = 3
TASKS = {"gpt2": "CAUSAL_LM", "llama": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "bert": "FEATURE_EXTRACTION"}


class TestPTuning(TechniqueConformance):
    technique = "p-tuning"
    options = {"length": LENGTH, "hidden": 8}


class TestPTuningWithLstm(TechniqueConformance):
    technique = "p-tuning"
    options = {"length": LENGTH, "hidden": 8, "encoder": "lstm"}
    families = ("bert", "gpt2", "llama", "t5")


def tiny_lm(family: str) -> Tiny:
    return next(tiny for tiny in all_tiny([family]) if tiny.auto_class.endswith("LM"))


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
@pytest.mark.parametrize("family", TASKS)
def test_logits_and_gradients_equal_peft(family: str, encoder: str) -> None:
    peft = pytest.importorskip("peft")
    tiny = tiny_lm(family)
    model = tiny.model()
    config = peft.PromptEncoderConfig(
        task_type=TASKS[family],
        num_virtual_tokens=LENGTH,
        encoder_reparameterization_type=encoder.upper(),
        encoder_hidden_size=8,
        encoder_dropout=0.0,
        num_transformer_submodules=1,
    )
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    adaptation = refarch.attach(model, "p-tuning", length=LENGTH, hidden=8, encoder=encoder)
    randomise(adaptation)
    names = {"table": "embedding.weight", "mlp": "mlp_head", "lstm": "lstm_head"}
    pairs: dict[str, Any] = dict(theirs.prompt_encoder["default"].named_parameters())
    mine = {}
    for name, parameter in adaptation.named_parameters():
        part, _, rest = name.removeprefix("prompt.inputs.").partition(".")
        mine[f"{names[part]}.{rest}".rstrip(".")] = parameter
    assert mine.keys() == pairs.keys()
    with torch.no_grad():
        for name, parameter in mine.items():
            pairs[name].copy_(parameter)
    batch = tiny.batch(model)
    batch.pop("position_ids", None)  # peft leaves positions to the model
    found, wanted = model(**batch).logits, theirs(**batch).logits
    cut = wanted.shape[1] - found.shape[1]  # peft returns the prompt's positions too
    assert cut == (0 if family == "t5" else LENGTH)
    torch.testing.assert_close(found, wanted[:, cut:], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, model_without(tiny, batch), atol=1e-3)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    (found * weight).mean().backward()
    (wanted[:, cut:] * weight).mean().backward()
    for name, parameter in mine.items():
        torch.testing.assert_close(parameter.grad, pairs[name].grad, rtol=1e-5, atol=1e-5)


def model_without(tiny: Tiny, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return outputs(tiny.model(), batch)


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_saving_keeps_the_tokens_alone_and_the_output(family: str, encoder: str, tmp_path: Path) -> None:
    tiny = tiny_lm(family)
    model = tiny.model()
    adaptation = refarch.attach(model, "p-tuning", length=LENGTH, hidden=8, encoder=encoder)
    randomise(adaptation)
    batch = tiny.batch(model)
    expected = outputs(model, batch)
    adaptation.save(tmp_path)
    assert adaptation.count() > LENGTH * 32, "saving must leave the encoder where it trains"
    again = tiny.model()
    loaded = refarch.load(again, tmp_path)
    assert {name: tuple(value.shape) for name, value in loaded.state_dict().items()} == {
        "prompt.inputs.tokens": (LENGTH, 32)
    }
    torch.testing.assert_close(outputs(again, batch), expected, rtol=1e-6, atol=1e-6)
    again = tiny.model()
    adaptation.save(tmp_path, for_training=True)
    assert refarch.load(again, tmp_path).state_dict().keys() == adaptation.state_dict().keys()
    assert torch.equal(outputs(again, batch), expected)


def test_bert_base_has_15360_once_folded() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    adaptation = refarch.attach(model, "p-tuning", length=20)
    for _, function in adaptation.functions():
        assert isinstance(function, EncodedPrompt)
        function.fold()
    assert adaptation.count() == 15_360
