"""Slots are found or it is said what is missing; layers are chosen as asked; nothing is silently left out."""

from typing import Any

import engine_models as em
import pytest
import torch

import refarch
from refarch.architecture import Layers, parse_slot
from refarch.engine import Resolver
from refarch.errors import CompositionError, RefarchError, SlotError, SpecError, UnknownNameError


def _addresses(model: Any, name: str, slot: str, **layers: Any) -> list[str]:
    sites = Resolver(model, em.family(name)).resolve([parse_slot(slot)], Layers(**layers))
    return [site.address for site in sites]


def test_layer_choices() -> None:
    model = em.tiny("bert", num_hidden_layers=5)

    def chosen(**layers: Any) -> list[int]:
        return [int(address.split(".")[1]) for address in _addresses(model, "bert", "ffn.up", **layers)]

    assert chosen() == [0, 1, 2, 3, 4]
    assert chosen(first=2) == [0, 1] and chosen(last=2) == [3, 4] and chosen(first=5) == [0, 1, 2, 3, 4]
    assert chosen(every=2) == [0, 2, 4] and chosen(every=9) == [0]
    assert chosen(indices=(-1, 0, 4, -5)) == [0, 4]
    for wrong in ({"first": 6}, {"last": 6}, {"indices": (5,)}, {"indices": (-6,)}):
        with pytest.raises(SlotError, match="5 layers"):
            chosen(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"first": 1, "last": 1}, {"indices": ()}, {"stacks": ()}, {"first": 0}, {"frist": 1}]
)
def test_layer_choices_that_mean_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        Layers.parse(wrong)
    model = em.tiny("bert")
    with pytest.raises(SpecError):
        refarch.attach(model, "lora", layers=wrong)


def test_stacks_of_an_encoder_decoder() -> None:
    model = em.tiny("t5", num_decoder_layers=3)
    assert _addresses(model, "t5", "ffn.up", last=1) == ["encoder.1.ffn.up", "decoder.2.ffn.up"]
    assert _addresses(model, "t5", "ffn.up", stacks=("encoder",)) == ["encoder.0.ffn.up", "encoder.1.ffn.up"]
    assert _addresses(model, "t5", "cross_attention.query", first=1) == ["decoder.0.cross_attention.query"]
    assert _addresses(model, "t5", "final_norm") == ["encoder.final_norm", "decoder.final_norm"]
    with pytest.raises(SlotError, match="table of the encoder"):
        _addresses(model, "t5", "cross_attention.query", stacks=("encoder",))
    with pytest.raises(SlotError, match="stacks decoder"):
        _addresses(em.tiny("bert"), "bert", "ffn.up", stacks=("decoder",))


def test_a_missing_slot_says_what_was_asked_matched_missing_and_near() -> None:
    model = em.tiny("bert")
    before = em.snapshot(model)
    with pytest.raises(SlotError) as caught:
        refarch.attach(model, "lora", slots=("attention.query", "cross_attention.query", "ffn.gate"))
    text = str(caught.value)
    assert "family 'bert' on BertForSequenceClassification" in text
    assert "'cross_attention.query': matched 0, missing at encoder.0.cross_attention.query, encoder.1" in text
    assert "'ffn.gate': matched 0, missing at the table of the encoder" in text
    assert "ffn.up" in caught.value.hint if caught.value.hint else False
    em.assert_restored(before, model)


def test_a_layer_without_the_module_is_missing_by_name() -> None:
    model = em.tiny("llama")
    del model.model.layers[1].mlp.up_proj
    with pytest.raises(SlotError, match=r"matched 1, missing at decoder\.1\.ffn\.up"):
        refarch.attach(model, "lora", slots=("ffn.up",))


def test_a_table_with_a_wrong_path_is_an_error() -> None:
    model = em.tiny("bert")
    family = em.family("bert")
    stack = family.stacks[0]

    def broken(**change: Any) -> refarch.FamilySpec:
        return family.model_copy(update={"stacks": (stack.model_copy(update=change),)})

    with pytest.raises(SlotError, match=r"missing at encoder\.0\.ffn\.up"):
        wrong = broken(slots={**stack.slots, "ffn.up": "intermediate.dens"})
        refarch.attach(model, "lora", slots=("ffn.up",), family=wrong)
    with pytest.raises(SlotError, match=r"expects layers at encoder\.layers\.\{\}"):
        refarch.attach(model, "lora", family=broken(layers="encoder.layers.{}"))
    with pytest.raises(SlotError, match="the width of a BertIntermediate"):
        refarch.attach(model, "lora", slots=("ffn.up",), family=broken(slots={**stack.slots, "ffn.up": "intermediate"}))
    with pytest.raises(SlotError):
        wrong_embedding = family.model_copy(update={"embedding": "embeddings.words"})
        refarch.attach(model, em.technique(em.module("Tokens", "concatenation", "inputs")), family=wrong_embedding)
    assert refarch.adaptations(model) == ()


def test_alternatives_and_optional_entries() -> None:
    gated = em.tiny("t5", feed_forward_proj="gated-gelu")
    assert len(_addresses(gated, "t5", "ffn.gate")) == 4
    adaptation = refarch.attach(gated, "lora", slots=("ffn.up", "ffn.gate"))
    paths = set(adaptation.slot_map.values())
    assert any(path.endswith("wi_1") for path in paths) and any(path.endswith("wi_0") for path in paths)
    with pytest.raises(SlotError, match=r"missing at encoder\.0\.ffn\.gate"):
        refarch.attach(em.tiny("t5"), "lora", slots=("ffn.gate",))


@pytest.mark.parametrize("name", em.FAMILIES)
def test_shapes_are_those_of_the_modules(name: str) -> None:
    model = em.tiny(name)
    for sites in Resolver(model, em.family(name)).available().values():
        for site in sites:
            shape = site.shape
            if sites[0].ref.slot.kind == "linear":
                x = torch.randn(2, shape.d_in)
                assert shape.weight().shape == (shape.d_out, shape.d_in)
                whole = site.end.module(x).shape[-1]
                assert shape.d_out == whole // (site.end.part.of if site.end.part else 1)
    grouped = {"llama": 16}.get(name, 32)
    (site, *_) = Resolver(model, em.family(name)).resolve([parse_slot("attention.key_value")], Layers())
    assert site.shape.d_out == grouped


def test_models_and_techniques_that_are_not_known() -> None:
    with pytest.raises(RefarchError, match="is no transformers model"):
        refarch.attach(torch.nn.Linear(2, 2), "lora")  # type: ignore[type-var]
    with pytest.raises(UnknownNameError, match=r"(?s)lroa.*lora"):
        refarch.attach(em.tiny("bert"), "lroa")
    with pytest.raises(SpecError, match="did you mean 'rank'"):
        refarch.attach(em.tiny("bert"), "lora", rnak=3)


@pytest.mark.parametrize(
    "name", ["order", "train", "forward", "training", "type", "half", "of", "give_back", "ordered"]
)
def test_names_that_modules_have_too(name: str) -> None:
    model = em.tiny("bert")
    before = em.snapshot(model)
    with pytest.raises(CompositionError, match="or by torch"):
        refarch.attach(model, "lora", name=name)
    with pytest.raises(SpecError, match=r"torch.s modules use"):
        refarch.attach(model, em.technique(em.module("Narrow", "scaled addition", "ffn.up", name=name))).detach()
    with pytest.raises(CompositionError, match="has a dot"):
        refarch.attach(model, "lora", name="a.b")
    em.assert_restored(before, model)
    assert (
        refarch.attach(model, em.technique(em.module("Narrow", "scaled addition", "ffn.up"), name="half")).name
        == "half-2"
    )


def test_a_sublayer_beside_its_own_leaves_keeps_all_its_parameters() -> None:
    for workspace in (("ffn", "ffn.down"), ("ffn.down", "ffn"), ("attention", "attention.output", "attention.query")):
        model, values = em.tiny("bert"), em.batch("bert")
        adaptation = refarch.attach(model, em.technique(em.module("Mlp", "direct addition", workspace, form="mlp")))
        assert len(list(adaptation.parameters())) == 4 * 2 * len(workspace)
        model(**values).loss.backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adaptation.parameters())


def test_a_list_is_attached_whole_or_not_at_all() -> None:
    model = em.tiny("bert")
    before = em.snapshot(model)
    good = em.technique(em.module("Narrow", "scaled addition", "ffn.up"), name="good")
    bad = em.technique(em.module("Narrow", "scaled addition", "ffn.gate"), name="bad")
    with pytest.raises(SlotError):
        refarch.attach(model, [good, bad], train_head=True)
    em.assert_restored(before, model)
    both = refarch.attach(model, [good, good], train_head=True)
    assert [a.name for a in both] == ["good", "good-2"] and [bool(a.copies) for a in both] == [True, False]


def test_one_module_at_several_layers_is_adapted_once_or_not_at_all() -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    model.bert.encoder.layer[1] = model.bert.encoder.layer[0]
    before = em.snapshot(model)
    with pytest.raises(
        SlotError, match=r"encoder\.0\.attention\.query and encoder\.1\.attention\.query are one module"
    ):
        refarch.attach(model, "lora")
    em.assert_restored(before, model)
    adaptation = refarch.attach(model, "lora", layers=[0])
    with torch.no_grad():
        for parameter in adaptation.parameters():
            parameter.normal_()
    found = model(**values).logits
    adaptation.merge()
    torch.testing.assert_close(model(**values).logits, found, rtol=1e-4, atol=1e-4)
