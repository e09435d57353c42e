"""Prompt tuning: the conformance kit, the paper's parameter count and start, and peft with equal tokens."""

import copy

import pytest
import torch
from transformers import BertConfig, BertModel

import refarch
from refarch.testing import TechniqueConformance, all_tiny, outputs, randomise

LENGTH = 3
TASKS = {"bert": "FEATURE_EXTRACTION", "gpt2": "CAUSAL_LM", "llama": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM"}


class TestPromptTuning(TechniqueConformance):
    technique = "prompt-tuning"
    options = {"length": LENGTH}


@pytest.mark.parametrize("lengths", [(7, 7), (4, 7)], ids=["full", "padded"])
@pytest.mark.parametrize("family", TASKS)
def test_logits_and_gradients_equal_peft(family: str, lengths: tuple[int, ...]) -> None:
    peft = pytest.importorskip("peft")
    tiny = next(tiny for tiny in all_tiny([family]) if tiny.auto_class.endswith("LM"))
    model = tiny.model()
    config = peft.PromptTuningConfig(task_type=TASKS[family], num_virtual_tokens=LENGTH, num_transformer_submodules=1)
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    adaptation = refarch.attach(model, "prompt-tuning", length=LENGTH)
    randomise(adaptation)
    ((_, own),) = adaptation.named_parameters()
    other = theirs.prompt_encoder["default"].embedding.weight
    other.data.copy_(own.detach())
    batch = tiny.batch(model, lengths)
    batch.pop("position_ids", None)  # peft leaves positions to the model, which counts the prompt's along
    found, wanted = model(**batch).logits, theirs(**batch).logits
    cut = wanted.shape[1] - found.shape[1]  # peft returns the prompt's positions too
    assert cut == (0 if family == "t5" else LENGTH)
    torch.testing.assert_close(found, wanted[:, cut:], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, outputs(tiny.model(), batch), atol=1e-3)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    (found * weight).mean().backward()
    (wanted[:, cut:] * weight).mean().backward()
    torch.testing.assert_close(own.grad, other.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_the_loss_equals_peft(family: str) -> None:
    """The model's own loss for labels: in a decoder they shift by one, and the prompt's positions have none."""
    peft = pytest.importorskip("peft")
    tiny = all_tiny([family])[0]
    model = tiny.model()
    config = peft.PromptTuningConfig(task_type=TASKS[family], num_virtual_tokens=LENGTH, num_transformer_submodules=1)
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    adaptation = refarch.attach(model, "prompt-tuning", length=LENGTH)
    ((_, own),) = adaptation.named_parameters()
    theirs.prompt_encoder["default"].embedding.weight.data.copy_(own.detach())
    batch = tiny.batch(model)
    batch.pop("position_ids", None)
    labels = batch.get("decoder_input_ids", batch["input_ids"])
    found, wanted = model(**batch, labels=labels).loss, theirs(**batch, labels=labels).loss
    if family == "t5":
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    else:  # peft also predicts the first token, from the prompt's last position, which here is cut off
        logits = theirs(**batch).logits[:, LENGTH:-1]
        plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


def test_it_starts_from_words_of_the_vocabulary() -> None:
    model = all_tiny(["bert"])[0].model()
    table = model.base_model.embeddings.word_embeddings.weight
    ((_, tokens),) = refarch.attach(model, "prompt-tuning", length=8).named_parameters()
    assert all(bool((table == token).all(dim=1).any()) for token in tokens)


def test_or_from_uniform_numbers() -> None:
    model = all_tiny(["bert"])[0].model()
    ((_, tokens),) = refarch.attach(model, "prompt-tuning", length=200, init="uniform").named_parameters()
    assert tokens.abs().max() <= 0.5
    assert tokens.std().item() == pytest.approx(12**-0.5, rel=0.05)


def test_bert_base_has_15360_once() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert refarch.attach(model, "prompt-tuning", length=20).count() == 15_360
