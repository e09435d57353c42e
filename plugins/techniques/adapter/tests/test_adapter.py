"""Bottleneck adapters: the conformance kit for each preset, the papers' formulas and parameter counts."""

from typing import Any

import pytest
import torch
from refarch_adapter.function import Bottleneck
from torch import Tensor
from transformers import BertConfig, BertModel

import refarch
from refarch.testing import TechniqueConformance, all_tiny, outputs, randomise

# family -> where attention ends, where the feed-forward sublayer begins and where it ends, of each layer
PLACES = {
    "bert": ("encoder.layer.{}", "attention.output.dense", "intermediate.dense", "output.dense"),
    "gpt2": ("h.{}", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    "llama": ("layers.{}", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"),
}


class TestHoulsby(TechniqueConformance):
    technique = "adapter"
    options = {"bottleneck": 4}


class TestPfeiffer(TechniqueConformance):
    technique = "adapter"
    options = {"preset": "pfeiffer", "bottleneck": 4}


class TestParallel(TechniqueConformance):
    technique = "adapter"
    options = {"preset": "parallel", "bottleneck": 4}


def plain(own: Bottleneck, h: Tensor, f: Any) -> Tensor:
    """W_up f(W_down h + b_down) + b_up."""
    return f(h @ own.down.weight.T + own.down.bias) @ own.up.weight.T + own.up.bias


def houlsby(attention: Any, up: Any, down: Any, own: list[Bottleneck]) -> None:
    """After attention's projection and after the feed-forward's last: h <- h + M(h)."""
    for end, function in zip((attention, down), own, strict=True):
        end.register_forward_hook(
            lambda module, args, h, function=function: h + plain(function, h, torch.nn.functional.gelu)
        )


def pfeiffer(attention: Any, up: Any, down: Any, own: list[Bottleneck]) -> None:
    """After the feed-forward's last projection alone: h <- h + M(h)."""
    down.register_forward_hook(lambda module, args, h: h + plain(own[0], h, torch.relu))


def parallel(attention: Any, up: Any, down: Any, own: list[Bottleneck]) -> None:
    """Beside the feed-forward sublayer, of what it reads: h <- h + 4 M(x)."""
    read: list[Tensor] = []
    up.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    down.register_forward_hook(lambda module, args, h: h + 4 * plain(own[0], read.pop(), torch.relu))


@pytest.mark.parametrize("family", PLACES)
@pytest.mark.parametrize("preset", [houlsby, pfeiffer, parallel])
def test_logits_and_gradients_equal_the_papers_formulas(preset: Any, family: str) -> None:
    tiny = all_tiny([family])[0]
    model, by_hand = tiny.model(), tiny.model()
    adaptation = refarch.attach(model, "adapter", preset=preset.__name__, bottleneck=5)
    randomise(adaptation)
    layer, *places = PLACES[family]
    for index in range(2):
        own = [function for address, function in adaptation.functions() if f".{index}." in address]
        preset(*(by_hand.base_model.get_submodule(f"{layer.format(index)}.{place}") for place in places), own)
    batch = tiny.batch(model)
    torch.testing.assert_close(outputs(model, batch), outputs(by_hand, batch), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(outputs(model, batch), outputs(tiny.model(), batch), atol=1e-3)
    parameters = list(adaptation.parameters())
    found = torch.autograd.grad(tiny.loss(model, batch), parameters)
    wanted = torch.autograd.grad(tiny.loss(by_hand, batch), parameters)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("preset", "bottleneck", "a_layer"), [("houlsby", 64, 198_272), ("pfeiffer", 48, 74_544), ("parallel", 48, 74_544)]
)
def test_counts_a_layer_of_bert_base(preset: str, bottleneck: int, a_layer: int) -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert refarch.attach(model, "adapter", preset=preset, bottleneck=bottleneck).count() == 12 * a_layer


def test_pfeiffer_is_48_wide_unless_said_otherwise() -> None:
    for _, function in refarch.attach(all_tiny(["bert"])[0].model(), "adapter", preset="pfeiffer").functions():
        assert isinstance(function, Bottleneck) and function.down.out_features == 48
