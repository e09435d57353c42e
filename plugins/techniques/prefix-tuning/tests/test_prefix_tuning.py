"""Prefix tuning: the conformance kit, folding, the paper's parameter count, and peft with equal keys and values."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from refarch_prefix_tuning.function import Prefix
from torch import nn
from transformers import BertConfig, BertModel

import refarch
from refarch.testing import TechniqueConformance, Tiny, all_tiny, outputs, randomise

LENGTH = 3


class TestPrefixTuning(TechniqueConformance):
    technique = "prefix-tuning"
    options = {"length": LENGTH, "hidden": 8}


class TestPrefixTuningOfCrossAttention(TechniqueConformance):
    technique = "prefix-tuning"
    options = {"length": LENGTH, "hidden": 8, "slots": ["attention.key_value", "cross_attention.key_value"]}
    families = ("t5",)


class TestCountedPrefix(TechniqueConformance):
    """Its positions count, as those of a cache do: in models with position biases."""

    technique = "prefix-tuning"
    options = {"preset": "counted", "length": LENGTH, "hidden": 8}
    families = ("t5",)


def shifted(tiny: Tiny, model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A batch for ours and for peft. Peft's prefix is a cache, after which a decoder's positions go on counting."""
    batch = tiny.batch(model)
    theirs = {name: tensor for name, tensor in batch.items() if name != "position_ids"}
    if "position_ids" in batch:
        batch["position_ids"] = batch["position_ids"] + LENGTH
    return batch, theirs


def with_peft(model: Any, **options: Any) -> tuple[Any, nn.Module]:
    peft = pytest.importorskip("peft")
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=LENGTH, num_transformer_submodules=1, **options
    )
    wrapped = peft.get_peft_model(copy.deepcopy(model), config).eval()
    return wrapped, wrapped.prompt_encoder["default"]


def compare(tiny: Tiny, model: Any, wrapped: Any) -> None:
    """Equal logits, with the gradients computed; the prefix at work."""
    ours, theirs = shifted(tiny, model)
    found, wanted = model(**ours).logits, wrapped(**theirs).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, outputs(tiny.model(), ours), atol=1e-3)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    (found * weight).mean().backward()
    (wanted * weight).mean().backward()


def folded(tiny: Tiny, folder: Path, **choices: Any) -> tuple[Any, refarch.Adaptation]:
    """A model with keys and values alone, that train."""
    adaptation = refarch.attach(tiny.model(), "prefix-tuning", length=LENGTH, hidden=8, **choices)
    randomise(adaptation)
    adaptation.save(folder)
    model = tiny.model()
    return model, refarch.load(model, folder, trainable=True)


def functions(adaptation: refarch.Adaptation) -> list[Prefix]:
    found = [function for _, function in adaptation.functions()]
    assert all(isinstance(function, Prefix) for function in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_logits_and_gradients_equal_peft(family: str, tmp_path: Path) -> None:
    """Peft's embedding holds each layer's keys and values side by side."""
    tiny = all_tiny([family])[0]
    model, adaptation = folded(tiny, tmp_path)
    wrapped, encoder = with_peft(tiny.model())
    parts = [part for layer in functions(adaptation) for part in (layer.keys, layer.values)]
    encoder.embedding.weight.data.copy_(torch.cat(parts, dim=1).detach())
    compare(tiny, model, wrapped)
    own = torch.cat([part.grad for part in parts], dim=1)
    torch.testing.assert_close(own, encoder.embedding.weight.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "width"), [("gpt2", 32), ("llama", 16)])  # in peft, as wide as all keys together
def test_with_the_network_logits_and_gradients_equal_peft(family: str, width: int) -> None:
    tiny = all_tiny([family])[0]
    model = tiny.model()
    adaptation = refarch.attach(model, "prefix-tuning", length=LENGTH, hidden=width)
    randomise(adaptation)
    layers = functions(adaptation)
    wrapped, encoder = with_peft(tiny.model(), prefix_projection=True, encoder_hidden_size=width)
    first, _, last = encoder.transform
    trunk = layers[0].trunk
    assert trunk is not None and all(layer.trunk.table is trunk.table for layer in layers)
    pairs = [(trunk.table, encoder.embedding.weight), (trunk.hidden.weight, first.weight)]
    pairs += [(trunk.hidden.bias, first.bias)]
    for index, layer in enumerate(layers):  # the last layer's rows: of each layer of the model, keys and values
        rows = slice(2 * width * index, 2 * width * (index + 1))
        pairs += [(layer.out.weight, last.weight[rows]), (layer.out.bias, last.bias[rows])]
    with torch.no_grad():
        for own, theirs in pairs:
            theirs.copy_(own)
    compare(tiny, model, wrapped)
    whole = {id(parameter): parameter.grad for parameter in encoder.parameters()}
    for own, theirs in pairs[:3]:
        torch.testing.assert_close(own.grad, whole[id(theirs)], rtol=1e-5, atol=1e-5)
    for name, theirs in (("weight", last.weight), ("bias", last.bias)):
        own = torch.cat([getattr(layer.out, name).grad for layer in layers])
        torch.testing.assert_close(own, theirs.grad, rtol=1e-5, atol=1e-5)


def test_on_an_encoder_it_is_the_papers_attention_written_out() -> None:
    """softmax(Q [P_k; K]^T / sqrt(d)) [P_v; V] in each head, where padding is masked and the prefix is not."""
    tiny = all_tiny(["bert"])[0]
    model, by_hand = tiny.model(), tiny.model()
    adaptation = refarch.attach(model, "prefix-tuning", length=LENGTH, hidden=8)
    randomise(adaptation)
    batch = tiny.batch(model, (4, 7))
    hidden = torch.cat([torch.zeros(2, LENGTH), 1 - batch["attention_mask"]], dim=1).bool()[:, None, None]  # b 1 1 s
    for layer, function in zip(by_hand.base_model.encoder.layer, functions(adaptation), strict=True):
        own = layer.attention.self

        def plain(x: torch.Tensor, *args: Any, own: Any = own, function: Any = function, **kwargs: Any) -> Any:
            keys, values = function()

            def heads(t: torch.Tensor) -> torch.Tensor:
                return t.unflatten(-1, (4, 8)).transpose(-3, -2)  # ... h t dim

            q = heads(own.query(x))
            k = heads(torch.cat([keys.expand(len(x), -1, -1), own.key(x)], dim=1))
            v = heads(torch.cat([values.expand(len(x), -1, -1), own.value(x)], dim=1))
            scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(hidden, float("-inf"))
            return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(-2), None

        own.forward = plain
    torch.testing.assert_close(outputs(model, batch), outputs(by_hand, batch), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(outputs(model, batch), outputs(tiny.model(), batch), atol=1e-3)
    parameters = list(adaptation.parameters())
    found = torch.autograd.grad(tiny.loss(model, batch), parameters)
    wanted = torch.autograd.grad(tiny.loss(by_hand, batch), parameters)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_saving_keeps_keys_and_values_alone_and_the_output(family: str, tmp_path: Path) -> None:
    tiny = all_tiny([family])[0]
    model = tiny.model()
    adaptation = refarch.attach(model, "prefix-tuning", length=LENGTH, hidden=8)
    randomise(adaptation)
    batch = tiny.batch(model)
    expected = outputs(model, batch)
    adaptation.save(tmp_path)
    assert any("trunk" in name for name in adaptation.state_dict()), "saving must leave the network where it trains"
    again = tiny.model()
    loaded = refarch.load(again, tmp_path)
    assert {name.rpartition(".")[2] for name in loaded.state_dict()} == {"keys", "values"}
    assert len(loaded.state_dict()) == 2 * len(adaptation.insertions)
    torch.testing.assert_close(outputs(again, batch), expected, rtol=1e-6, atol=1e-6)


def test_folding_keeps_the_output_and_folding_twice_is_folding_once() -> None:
    tiny = all_tiny(["gpt2"])[0]
    model = tiny.model()
    adaptation = refarch.attach(model, "prefix-tuning", length=LENGTH, hidden=8)
    randomise(adaptation)
    batch = tiny.batch(model)
    expected = outputs(model, batch)
    for _ in range(2):
        for function in functions(adaptation):
            function.fold()
        torch.testing.assert_close(outputs(model, batch), expected, rtol=1e-6, atol=1e-6)


def test_saved_for_training_it_keeps_the_network(tmp_path: Path) -> None:
    tiny = all_tiny(["t5"])[0]
    model, again = tiny.model(), tiny.model()
    adaptation = refarch.attach(model, "prefix-tuning", length=LENGTH, hidden=8)
    randomise(adaptation)
    adaptation.save(tmp_path, for_training=True)
    loaded = refarch.load(again, tmp_path, trainable=True)
    assert loaded.count() == adaptation.count()
    batch = tiny.batch(model)
    assert torch.equal(outputs(again, batch), outputs(model, batch))


def test_bert_base_has_30720_a_layer_once_folded() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    adaptation = refarch.attach(model, "prefix-tuning", length=20)
    for function in functions(adaptation):
        function.fold()
    assert adaptation.count() == 12 * 30_720
