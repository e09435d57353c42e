"""UniPELT: the conformance kit, its formulas written out on BERT, counts; no function of its own."""

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

import refarch
from refarch.plugins import default_registry
from refarch.testing import TechniqueConformance, ahead_reason, all_tiny, outputs, randomise

SIZES = {"length": 3, "hidden": 8, "rank": 2, "bottleneck": 4}


class TestUnipelt(TechniqueConformance):
    technique = "unipelt"
    options = SIZES


def written_out(model: torch.nn.Module, adaptation: refarch.Adaptation, mask: Tensor) -> None:
    """Make a plain BERT compute the paper's formulas with an adaptation's parameters."""
    for insertion in adaptation.insertions:
        function, gate, layer = insertion.function, insertion.gate, model.bert.encoder.layer[insertion.site.shape.layer]

        def g(x: Tensor, gate=gate) -> Tensor:  # [b, 1, 1]
            opened = 1 / (1 + torch.exp(-(x @ gate.weight + gate.bias)))
            return ((opened * mask).sum(1) / mask.sum(1))[:, None, None]

        def low_rank(_, args, y, function=function, g=g):
            return y + g(args[0]) * (args[0] @ function.down.t() @ function.up.t())

        def bottleneck(_, args, y, function=function, g=g):
            inner = torch.relu(y @ function.down.weight.t() + function.down.bias)
            return y + g(y) * (inner @ function.up.weight.t() + function.up.bias)

        def attention(module, args, y, function=function, g=g):
            x, dim = args[0], module.attention_head_size
            own_k, own_v = (p[None] * g(x) for p in function())  # b l d
            k, v = torch.cat([own_k, module.key(x)], 1), torch.cat([own_v, module.value(x)], 1)
            q, k, v = (t.unflatten(-1, (-1, dim)).transpose(1, 2) for t in (module.query(x), k, v))
            there = torch.cat([mask.new_ones(len(mask), function()[0].shape[0]), mask], 1)[:, None, None]
            scores = (q @ k.mT / dim**0.5).masked_fill(there == 0, -torch.inf)
            return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2), *y[1:]

        place, edit = {
            "prefix": (layer.attention.self, attention),
            "attention.query": (layer.attention.self.query, low_rank),
            "attention.value": (layer.attention.self.value, low_rank),
            "ffn.down": (layer.output.dense, bottleneck),
        }["prefix" if insertion.spec.name == "prefix" else str(insertion.site.ref)]
        place.register_forward_hook(edit)


def test_it_is_the_papers_formulas_with_padding() -> None:
    tiny = all_tiny(["bert"])[0]
    model, plain = tiny.model(), tiny.model()
    adaptation = refarch.attach(model, "unipelt", **SIZES)
    randomise(adaptation, scale=0.4)
    batch = tiny.batch(model, (5, 9))
    written_out(plain, adaptation, batch["attention_mask"])
    torch.testing.assert_close(outputs(model, batch), outputs(plain, batch), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs(model, batch), outputs(tiny.model(), batch), atol=1e-2)
    own = dict(adaptation.named_parameters())
    found = torch.autograd.grad(tiny.loss(model, batch), list(own.values()))
    expected = torch.autograd.grad(tiny.loss(plain, batch), list(own.values()))
    for name, a, b in zip(own, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert sum("-gate." in name for name in own) == 4 * 2 * 2


@pytest.mark.parametrize(("family", "ahead"), [("bert", False), ("gpt2", True)])
def test_a_decoder_is_told_what_its_gates_cannot_keep(family: str, ahead: bool) -> None:
    adaptation = refarch.attach(all_tiny([family])[0].model(), "unipelt", **SIZES)
    for insertion in adaptation.insertions:
        reason = ahead_reason(insertion.spec, insertion.site)
        assert bool(reason) == ahead and ("mean over tokens" in reason) == ahead


def test_gates_start_half_open_and_updates_unscaled() -> None:
    adaptation = refarch.attach(all_tiny(["bert"])[0].model(), "unipelt", **SIZES)
    assert all(insertion.gate is not None and insertion.gate.value() == 0.5 for insertion in adaptation.insertions)
    assert all(function.scale == 1 for _, function in adaptation.functions())
    assert len(adaptation.merge_reasons()) == len(adaptation.insertions)


def test_bert_base_is_counted_folded() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    adaptation = refarch.attach(model, "unipelt")
    for _, function in adaptation.functions():
        function.fold()
    d, prefix, low_rank, bottleneck = 768, 2 * 10 * 768, 2 * 8 * 2 * 768, 2 * 48 * 768 + 48 + 768
    assert adaptation.count() == 12 * (prefix + low_rank + bottleneck + 4 * (d + 1))


def test_the_plugin_has_no_function_of_its_own() -> None:
    spec = default_registry().technique("unipelt")
    assert [module.function for module in spec.modules] == [
        "refarch_prefix_tuning.function:Prefix",
        "refarch_lora.function:LoRA",
        "refarch_adapter.function:Bottleneck",
    ]
