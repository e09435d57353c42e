"""ln-tuning: the conformance kit, what trains, and peft with equal norms."""

import copy
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

import refarch
from refarch import default_registry
from refarch.testing import TechniqueConformance, Tiny, all_tiny, outputs, randomise

# family -> the ends of the paths of its norms
NORMS = {"bert": "LayerNorm", "gpt2": r"(ln_1|ln_2|ln_f)", "llama": "norm", "t5": "layer_norm"}


# family -> a norm of parameters (the table of relative positions), not of activations
NO_SLOT = {"deberta-v2": "deberta.encoder.LayerNorm"}
EVERY = [
    *all_tiny(),
    *(Tiny(kin, kin.tiny.auto_classes[0]) for family in default_registry().families() for kin in family.relatives()),
]


class TestLnTuning(TechniqueConformance):
    technique = "ln-tuning"


@pytest.mark.parametrize("family", NORMS)
def test_logits_and_gradients_equal_peft(family: str) -> None:
    peft = pytest.importorskip("peft")
    tiny = all_tiny([family])[0]
    model = tiny.model()
    config = peft.LNTuningConfig(target_modules=rf".*{NORMS[family]}")
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    adaptation = refarch.attach(model, "ln-tuning")
    randomise(adaptation)
    pairs: dict[str, Any] = {
        name.split("base_model.model.")[1].replace("ln_tuning_layers.default.", ""): parameter
        for name, parameter in theirs.named_parameters()
        if parameter.requires_grad
    }
    own = {name.removeprefix("base:"): parameter for name, parameter in adaptation.named_parameters()}
    assert own.keys() == pairs.keys()
    with torch.no_grad():
        for name, parameter in own.items():
            pairs[name].copy_(parameter)
    batch = tiny.batch(model)
    expected = outputs(theirs, batch)
    torch.testing.assert_close(outputs(model, batch), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, outputs(tiny.model(), batch), atol=1e-3)
    tiny.loss(model, batch).backward()
    tiny.loss(theirs, batch).backward()
    for name, parameter in own.items():
        torch.testing.assert_close(parameter.grad, pairs[name].grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tiny", EVERY, ids=lambda tiny: f"{tiny.label}-{tiny.family.tiny.model_type}")
def test_every_norm_trains(tiny: Tiny) -> None:
    """On every installed family and every kin of it: no norm of activations is left out."""
    model = tiny.model()
    norms = [
        f"base:{path}.{name}"
        for path, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if type(module).__name__.endswith("Norm")
        and module in set(model.base_model.modules())
        and path != NO_SLOT.get(tiny.family.name)
    ]
    assert norms
    assert sorted(name for name, _ in refarch.attach(model, "ln-tuning").named_parameters()) == sorted(norms)


def test_bert_base_has_3072_a_layer_and_1536_once() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert refarch.attach(model, "ln-tuning").count() == 12 * 2 * 2 * 768 + 2 * 768
