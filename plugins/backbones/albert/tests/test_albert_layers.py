"""Layers that run at several depths: what joins one joins all of its depths, once."""

import pytest
import torch
from transformers import AlbertConfig, AlbertForSequenceClassification

import refarch
from refarch.plugins import default_registry
from refarch.testing import spread

TINY = default_registry().backbone("albert").tiny.config
LORA = {"rank": 2, "slots": ["attention.query"]}


def albert(**changes: int) -> AlbertForSequenceClassification:
    torch.manual_seed(0)
    model = AlbertForSequenceClassification(AlbertConfig(**{**TINY, **changes})).eval()
    spread(model, seed=1)
    return model


@pytest.mark.parametrize(("groups", "inner"), [(1, 1), (2, 1), (4, 1), (2, 2), (1, 3)])
def test_every_layer_that_exists_is_adapted_and_counted_once(groups: int, inner: int) -> None:
    model = albert(num_hidden_groups=groups, inner_group_num=inner)
    adaptation = refarch.attach(model, "lora", **LORA)
    every = {path for path, _ in model.albert.named_modules() if path.endswith(".attention.query")}
    assert set(adaptation.slot_map.values()) == every
    assert len(every) == groups * inner
    assert adaptation.count() == groups * inner * 2 * (32 + 32)


def test_the_layers_are_in_the_order_in_which_they_run() -> None:
    model, order = albert(num_hidden_groups=2, inner_group_num=2), []
    adaptation = refarch.attach(model, "lora", **LORA)
    for path in adaptation.slot_map.values():
        model.albert.get_submodule(path).register_forward_pre_hook(lambda *_, path=path: order.append(path))
    model(input_ids=torch.tensor([[5, 6, 7]]))
    assert list(dict.fromkeys(order)) == list(adaptation.slot_map.values())
    assert len(order) == 4 * 2  # each group runs at two of the four depths


@torch.no_grad()
def test_one_module_acts_at_every_depth() -> None:
    """A model of one shared layer equals one in which each depth has a layer of its own with the same weights."""
    shared, own = albert(num_hidden_groups=1), albert(num_hidden_groups=4)
    state = shared.state_dict()
    own.load_state_dict({key: state[_first_group(key)] for key in own.state_dict()})
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(own(input_ids=ids).logits, shared(input_ids=ids).logits)
    for technique, options in (("lora", LORA), ("prefix-tuning", {"length": 2, "hidden": 4}), ("adapter", {})):
        one, four = refarch.attach(shared, technique, **options), refarch.attach(own, technique, **options)
        generator, mine = torch.Generator().manual_seed(3), {}
        for address, function in one.functions():
            for name, parameter in function.named_parameters():
                mine[f"{address}.{name}"] = parameter.normal_(generator=generator)
        for address, function in four.functions():
            for name, parameter in function.named_parameters():
                parameter.copy_(mine[f"{_first_layer(address)}.{name}"])
        torch.testing.assert_close(own(input_ids=ids).logits, shared(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
        with one.disabled():
            assert not torch.allclose(own(input_ids=ids).logits, shared(input_ids=ids).logits, atol=1e-4)
        one.detach()
        four.detach()


def test_layers_are_chosen_among_those_that_exist() -> None:
    with pytest.raises(refarch.errors.SlotError, match="2 layers"):
        refarch.attach(albert(), "lora", layers={"first": 3})


def test_counts_on_the_published_shape() -> None:
    """ALBERT base v2: one layer of 768 at twelve depths, so a twelfth of BERT base's LoRA."""
    with torch.device("meta"):
        config = AlbertConfig(hidden_size=768, num_attention_heads=12, intermediate_size=3072)
        model = AlbertForSequenceClassification(config)
    assert model.config.num_hidden_layers == 12
    assert refarch.attach(model, "lora", rank=8, slots=["attention.query", "attention.value"]).count() == 24_576


def _first_group(key: str) -> str:
    head, _, tail = key.partition("albert_layer_groups.")
    return f"{head}albert_layer_groups.0.{tail.partition('.')[2]}" if tail else key


def _first_layer(address: str) -> str:
    """``adapter.encoder.3.ffn`` -> ``adapter.encoder.0.ffn``"""
    name, stack, _, *rest = address.split(".")
    return ".".join([name, stack, "0", *rest])
