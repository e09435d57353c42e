"""A head of several modules trains, is saved and comes back as a whole."""

from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, DistilBertConfig, DistilBertForSequenceClassification

import refarch
from refarch.plugins import default_registry

TINY = default_registry().backbone("distilbert").tiny.config


def fresh(seed: int) -> DistilBertForSequenceClassification:
    """The same backbone with a new head, as from_pretrained gives it."""
    torch.manual_seed(0)
    model = DistilBertForSequenceClassification(DistilBertConfig(**TINY)).eval()
    torch.manual_seed(seed)
    for part in (model.pre_classifier, model.classifier):
        torch.nn.init.normal_(part.weight)
    return model


def test_a_trained_head_comes_back_on_a_base_with_another_new_head(tmp_path: Path) -> None:
    model, ids = fresh(1), torch.tensor([[5, 6, 7]])
    adaptation = refarch.attach(model, "lora", rank=2, train_head=True)
    trained = {name for name, _ in adaptation.named_parameters() if name.startswith("base:")}
    assert trained == {
        f"base:{part}.{leaf}" for part in ("pre_classifier", "classifier") for leaf in ("weight", "bias")
    }
    with torch.no_grad():
        for parameter in adaptation.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    wanted = model(input_ids=ids).logits
    adaptation.save(tmp_path / "saved")
    other = fresh(2)
    before = other(input_ids=ids).logits
    loaded = refarch.load(other, tmp_path / "saved")
    torch.testing.assert_close(other(input_ids=ids).logits, wanted)
    loaded.detach()
    assert torch.equal(other(input_ids=ids).logits, before)


def test_the_alternatives_follow_the_class() -> None:
    model = AutoModelForMaskedLM.from_config(DistilBertConfig(**TINY))
    adaptation = refarch.attach(model, "lora", rank=2, train_head=True)
    parts = {name.split(":")[1].split(".")[0] for name, _ in adaptation.named_parameters() if name.startswith("base:")}
    assert {"vocab_transform", "vocab_layer_norm"} <= parts
