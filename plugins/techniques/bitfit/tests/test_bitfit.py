"""bitfit: the conformance kit, and that the biases train, all of them and nothing else."""

import copy

import pytest
import torch
from transformers import BertConfig, BertModel

import refarch
from refarch.errors import SlotError
from refarch.testing import TechniqueConformance, all_tiny, outputs, randomise

FAMILIES = ["bert", "gpt2"]


class TestBitFit(TechniqueConformance):
    technique = "bitfit"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_bias_trains_and_nothing_else(family: str) -> None:
    """With gradients that are those of full finetuning, at the same values."""
    for tiny in all_tiny([family]):
        model, full = tiny.model(), tiny.model()
        adaptation = refarch.attach(model, "bitfit")
        randomise(adaptation)
        biases = {name for name, _ in full.named_parameters() if name.endswith("bias")}
        assert {name for name, p in model.named_parameters() if p.requires_grad} == biases
        assert {name for name, _ in adaptation.named_parameters()} == {f"base:{name}" for name in biases}
        values = {name.removeprefix("base:"): p for name, p in adaptation.named_parameters()}
        by_name = dict(full.named_parameters())
        with torch.no_grad():
            for name, value in values.items():
                by_name[name].copy_(value)
        batch = tiny.batch(model)
        assert torch.equal(outputs(model, batch), outputs(full, batch))
        tiny.loss(model, batch).backward()
        tiny.loss(full, batch).backward()
        for name, value in values.items():
            torch.testing.assert_close(value.grad, by_name[name].grad, rtol=1e-6, atol=1e-7)


def test_training_changes_the_biases_alone() -> None:
    tiny = all_tiny(["bert"])[0]
    model = tiny.model()
    before = copy.deepcopy(model.state_dict())
    adaptation = refarch.attach(model, "bitfit")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    tiny.loss(model, tiny.batch(model)).backward()
    optimizer.step()
    adaptation.merge()
    adaptation.commit()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.endswith("bias") for name in changed)


def test_bert_base_has_8448_a_layer() -> None:
    """Query, key, value, output, two norms and the last projection have d biases each, the first one d_ff."""
    with torch.device("meta"):
        model = BertModel(BertConfig())
    embedding_norm = pooler = 768
    assert refarch.attach(model, "bitfit").count() == 12 * (7 * 768 + 3072) + embedding_norm + pooler


def test_a_new_head_trains_along_and_only_its_biases_are_the_techniques_own() -> None:
    """Ben Zaken et al. train the task's layer too; the technique selects its bias alone, so a run adds the rest."""
    bitfit, full = (refarch.default_registry().technique(name).configure({}) for name in ("bitfit", "full"))
    assert full.selects_head and not bitfit.selects_head
    model = all_tiny(["bert"])[0].model()
    head = {name for name, _ in model.named_parameters() if name.startswith("classifier.")}
    adaptation = refarch.attach(model, "bitfit", train_head=True)
    trained = {name.removeprefix("base:") for name, p in adaptation.named_parameters() if p.requires_grad}
    assert head and head <= trained
    assert adaptation.count() - adaptation.count(head=False) == sum(model.get_parameter(name).numel() for name in head)


def test_a_model_without_biases_is_refused() -> None:
    model = all_tiny(["llama"])[0].model()
    with pytest.raises(SlotError, match="selects bias"):
        refarch.attach(model, "bitfit")
    assert not refarch.adaptations(model)
