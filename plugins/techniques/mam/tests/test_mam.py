"""The mix-and-match adapter: the conformance kit, and the two techniques that it is the union of."""

import pytest
import torch
from transformers import BertConfig, BertModel

import refarch
from refarch.errors import SpecError
from refarch.plugins import default_registry
from refarch.testing import TechniqueConformance, all_tiny, outputs, randomise

SIZES = {"length": 3, "hidden": 8, "bottleneck": 4}


class TestMam(TechniqueConformance):
    technique = "mam"
    options = SIZES


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_it_is_prefix_tuning_and_the_parallel_adapter_together(family: str) -> None:
    tiny = all_tiny([family])[0]
    model, apart = tiny.model(), tiny.model()
    whole = refarch.attach(model, "mam", **SIZES)
    randomise(whole)
    slots = ["attention.key_value", "cross_attention.key_value?"]
    prefix = refarch.attach(apart, "prefix-tuning", length=3, hidden=8, slots=slots)
    adapter = refarch.attach(apart, "adapter", preset="parallel", bottleneck=4)
    values = whole.state_dict()
    prefix.load_state_dict({name: value for name, value in values.items() if name.startswith("prefix.")})
    adapter.load_state_dict({name: value for name, value in values.items() if name.startswith("bottleneck.")})
    batch = tiny.batch(model)
    expected = outputs(apart, batch)
    assert torch.equal(outputs(model, batch), expected)
    for alone in (prefix, adapter):
        with alone.disabled():
            assert not torch.allclose(outputs(apart, batch), expected, atol=1e-3)
    gradients = torch.autograd.grad(tiny.loss(model, batch), list(whole.parameters()))
    others = torch.autograd.grad(tiny.loss(apart, batch), [*prefix.parameters(), *adapter.parameters()])
    names = [name for name, _ in (*prefix.named_parameters(), *adapter.named_parameters())]
    by_name = dict(zip(names, others, strict=True))
    for (name, _), gradient in zip(whole.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(gradient, by_name[name], rtol=1e-6, atol=1e-7)


def test_the_plugin_has_no_function_of_its_own() -> None:
    spec = default_registry().technique("mam")
    assert [module.function for module in spec.modules] == [
        "refarch_prefix_tuning.function:Prefix",
        "refarch_adapter.function:Bottleneck",
    ]


def test_bert_base_is_counted_folded() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    adaptation = refarch.attach(model, "mam")
    for _, function in adaptation.functions():
        function.fold()
    assert adaptation.count() == 12 * (2 * 30 * 768 + 2 * 512 * 768 + 512 + 768)


def test_slots_are_chosen_by_module() -> None:
    tiny = all_tiny(["t5"])[0]
    adaptation = refarch.attach(tiny.model(), "mam", slots={"prefix": "cross_attention.key_value"}, **SIZES)
    slots = {address.partition(".")[0]: address.split(".", 3)[3] for address in adaptation.slot_map}
    assert slots == {"prefix": "cross_attention.key_value", "bottleneck": "ffn"}


def test_a_misspelt_module_is_refused() -> None:
    with pytest.raises(SpecError, match="has no module 'prefx'") as caught:
        refarch.attach(all_tiny(["bert"])[0].model(), "mam", slots={"prefx": "attention.key_value"})
    assert "prefix" in str(caught.value.hint)
