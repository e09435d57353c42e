"""Tiny attention: the conformance kit for each preset, the paper's formula written out, counts, averaged heads."""

from typing import Any

import pytest
import torch
from refarch_tiny_attention.function import AveragedHeads, TinyAttention
from torch import Tensor
from transformers import BertConfig, BertModel

import refarch
from refarch.testing import TechniqueConformance, all_tiny, outputs, randomise

PLACES = {
    "bert": ("encoder.layer.{}.attention", "self.query", "output.dense"),
    "gpt2": ("h.{}.attn", "c_attn", "c_proj"),
    "llama": ("layers.{}.self_attn", "q_proj", "o_proj"),
}
"""Where a family's attention is, where it begins and where it ends."""


class TestSequential(TechniqueConformance):
    technique = "tiny-attention"
    options = {"head_dim": 2, "heads": 2}


class TestParallel(TechniqueConformance):
    technique = "tiny-attention"
    families = ("bert", "gpt2", "t5")
    options = {"preset": "parallel"}


class TestAveraged(TechniqueConformance):
    technique = "tiny-attention"
    families = ("gpt2",)
    options = {"preset": "averaged"}


def formula(own: TinyAttention, x: Tensor, mask: Tensor, causal: bool) -> Tensor:
    """1/H sum_h O_h softmax(q_h k_h^T / sqrt(D)) v_h + b_O, head by head; masked scores are minus infinity."""
    z = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    z = z * own.norm.weight + own.norm.bias
    _, heads, dim, _ = own.project.shape
    hidden = (mask == 0)[:, None, :].expand(-1, mask.shape[1], -1)  # b t s
    if causal:
        hidden = hidden | torch.ones_like(hidden).triu(1)
    total = torch.zeros(*x.shape[:-1], own.output.shape[0])
    assert own.project_bias is not None
    for h in range(heads):
        q, k, v = (z @ own.project[n, h].T + own.project_bias[n, h] for n in range(3))
        scores = (q @ k.transpose(1, 2) / dim**0.5).masked_fill(hidden, float("-inf"))
        weights = scores.softmax(-1).nan_to_num(0.0)  # padding before a causal sequence sees nothing
        total = total + weights @ v @ own.output[:, h].T
    return total / heads + own.output_bias


def by_hand(tiny: Any, adaptation: Any, insertion: str, batch: dict[str, Tensor]) -> Any:
    """The plain model with the formula added where attention ends."""
    model = tiny.model()
    layer, first, last = PLACES[tiny.family.name]
    for address, function in adaptation.functions():
        attention = model.base_model.get_submodule(layer.format(address.split(".")[2]))
        read: list[Tensor] = []

        def add(_: Any, __: Any, y: Tensor, read: list[Tensor] = read, function: Any = function) -> Tensor:
            x = read.pop() if insertion == "parallel" else y
            return y + formula(function, x, batch["attention_mask"], tiny.kind == "decoder")

        if insertion == "parallel":
            attention.get_submodule(first).register_forward_pre_hook(lambda _, args, read=read: read.append(args[0]))
        attention.get_submodule(last).register_forward_hook(add)
    return model


@pytest.mark.parametrize("preset", ["sequential", "parallel"])
@pytest.mark.parametrize("family", PLACES)
def test_logits_and_gradients_equal_the_papers_formula_with_padding(family: str, preset: str) -> None:
    tiny = all_tiny([family])[0]
    model = tiny.model()
    adaptation = refarch.attach(model, "tiny-attention", preset=preset, head_dim=2, heads=3, dropout=0.0)
    randomise(adaptation, scale=0.3)
    batch = tiny.batch(model, (5, 8))
    plain = by_hand(tiny, adaptation, preset, batch)
    real = batch["attention_mask"].bool() if tiny.kind == "decoder" else slice(None)
    found, wanted = model(**batch).logits[real], plain(**batch).logits[real]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert (found - tiny.model()(**batch).logits[real]).abs().max() > 1e-2
    parameters, weights = list(adaptation.parameters()), torch.randn_like(found)
    gradients = (torch.autograd.grad((each * weights).mean(), parameters) for each in (found, wanted))
    for one, other in zip(*gradients, strict=True):
        assert other.abs().max() > 1e-6
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "a_layer"),
    [
        ({"norm": False, "bias": False}, 3_072),
        ({}, 3_072 + 3 + 768 + 2 * 768),
        ({"heads": 4, "norm": False, "bias": False}, 4 * 3_072),
        ({"preset": "parallel", "head_dim": 2, "heads": 3}, 6 * 3_072 + 18 + 768 + 2 * 768),
    ],
)
def test_counts_a_layer_of_bert_base(options: dict[str, Any], a_layer: int) -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert refarch.attach(model, "tiny-attention", **options).count() == 12 * a_layer


def test_the_paper_trains_a_twentieth_of_a_percent_of_roberta_large() -> None:
    with torch.device("meta"):
        sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
        model = BertModel(BertConfig(vocab_size=50_265, **sizes))
    everything = sum(parameter.numel() for parameter in model.parameters())
    assert round(100 * refarch.attach(model, "tiny-attention").count() / everything, 2) == 0.05


def test_it_starts_near_the_base_or_at_it() -> None:
    tiny = all_tiny(["bert"])[0]
    base = outputs(tiny.model(), tiny.batch(tiny.model()))
    gaps = []
    for start in (0.0, 0.01, 1.0):
        model = tiny.model()
        refarch.attach(model, "tiny-attention", start=start)
        gaps.append(float((outputs(model, tiny.batch(model)) - base).abs().max()))
    assert gaps[0] == 0 and 0 < gaps[1] < 0.02 * float(base.abs().max()) < gaps[2]


def test_averaged_heads_start_as_one_and_are_their_mean_after_training(tmp_path: Any) -> None:
    tiny = all_tiny(["bert"])[0]
    model, single = tiny.model(), tiny.model()
    adaptation = refarch.attach(model, "tiny-attention", preset="averaged", dropout=0.0)
    batch = tiny.batch(model, (5, 7))
    at_start = outputs(model, batch)
    torch.testing.assert_close(model.train()(**batch).logits, at_start, rtol=1e-4, atol=1e-5)
    randomise(adaptation, scale=0.3)
    one = refarch.attach(single, "tiny-attention")
    with torch.no_grad():
        for (_, function), (_, other) in zip(adaptation.functions(), one.functions(), strict=True):
            assert isinstance(function, AveragedHeads) and function.project.shape[1] == 4
            assert isinstance(other, TinyAttention) and other.output_bias is not None
            for name, heads in function.heads():
                getattr(other, name).copy_(heads.mean(1, keepdim=True))
            other.output_bias.copy_(function.output_bias)
            other.norm.load_state_dict(function.norm.state_dict())
    torch.testing.assert_close(outputs(model, batch), outputs(single, batch), rtol=1e-5, atol=1e-6)
    assert (
        model.train()(**batch).logits - outputs(single, batch)
    ).abs().max() > 1e-3  # training, it is the heads' mean
    folder = adaptation.save(tmp_path / "averaged")
    loaded = refarch.load(tiny.model(), folder)
    assert loaded.count(trainable=False) == one.count()
