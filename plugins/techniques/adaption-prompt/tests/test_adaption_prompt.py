"""Adaption prompts: the conformance kit, peft with equal values, the formula by hand, counts."""

import copy
from typing import Any

import peft
import pytest
import torch
from peft.tuners.adaption_prompt.layer import AdaptedAttention
from torch import Tensor
from transformers import BertConfig, BertModel

import refarch
from refarch.testing import TechniqueConformance, all_tiny, randomise

LENGTH = 3
HEADS, DIM = 4, 8


class TestAdaptionPrompt(TechniqueConformance):
    technique = "adaption-prompt"
    options = {"length": LENGTH}


class TestTopLayer(TechniqueConformance):
    technique = "adaption-prompt"
    families = ("bert", "llama", "t5")
    options = {"length": 1, "layers": {"last": 1}}


class TestCrossAttention(TechniqueConformance):
    technique = "adaption-prompt"
    families = ("t5", "bart")
    options = {"length": 2, "slots": ["attention.key_value", "cross_attention.key_value"]}


def _tiny(family: str) -> Any:
    return all_tiny([family])[0]


def _gate(adaptation: refarch.Adaptation, address: str) -> Tensor:
    return dict(adaptation.named_parameters())[address.replace("prompt.", "prompt-gate.", 1) + ".bias"]


def _beside_peft(layers: int) -> Any:
    """Our tiny Llama (two heads of keys for four of queries) and peft's, with equal random prompts and gates."""
    model = _tiny("llama").model()
    twin = copy.deepcopy(model)
    adaptation = refarch.attach(model, "adaption-prompt", length=LENGTH, layers={"last": layers})
    randomise(adaptation, scale=0.7)
    config = peft.AdaptionPromptConfig(adapter_len=LENGTH, adapter_layers=layers, task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(twin, config).eval()
    theirs = [module for module in wrapped.modules() if isinstance(module, AdaptedAttention)]
    beside = []
    for (address, function), layer in zip(adaptation.functions(), theirs, strict=True):
        gate = _gate(adaptation, address)
        assert gate.abs() > 0.1
        with torch.no_grad():
            layer.adaption_prompt.copy_(function.tokens[None])
            layer.adaption_gate.copy_(gate)
        beside += [(function.tokens, layer.adaption_prompt), (gate, layer.adaption_gate)]
    return model, wrapped, beside


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_equals_peft_on_llama(layers: int, implementation: str) -> None:
    tiny = _tiny("llama")
    model, wrapped, beside = _beside_peft(layers)
    if implementation == "eager":
        model = tiny.model()
        model.set_attn_implementation("eager")
        adaptation = refarch.attach(model, "adaption-prompt", length=LENGTH, layers={"last": layers})
        randomise(adaptation, scale=0.7)
        own = [t for address, f in adaptation.functions() for t in (f.tokens, _gate(adaptation, address))]
        beside = [(mine, theirs) for mine, (_, theirs) in zip(own, beside, strict=True)]
    batch = tiny.batch(model, (5, 7))  # padded on the left
    logits, wanted = model(**batch).logits, wrapped(**batch).logits
    real = batch["attention_mask"].bool()
    assert (logits - tiny.model()(**batch).logits)[real].abs().max() > 1e-2
    torch.testing.assert_close(logits[real], wanted[real], rtol=1e-5, atol=1e-5)
    after_real = torch.nn.functional.pad(real, (1, 0))[:, :-1]  # what stands at padding means nothing
    labels = batch["input_ids"].masked_fill(~(real & after_real), -100)
    model(**batch, labels=labels).loss.backward()
    wrapped(**batch, labels=labels).loss.backward()
    for mine, theirs in beside:
        assert theirs.grad.abs().max() > 0
        torch.testing.assert_close(mine.grad, theirs.grad.view_as(mine), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_generates_with_a_cache_what_peft_generates(beams: int) -> None:
    model, wrapped, _ = _beside_peft(2)
    batch = _tiny("llama").batch(model, (3, 5))
    choice: dict[str, Any] = {"num_beams": beams, "max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    found = model.generate(**inputs, **choice)
    assert torch.equal(found, wrapped.generate(**inputs, **choice))
    assert not torch.equal(found, _tiny("llama").model().generate(**inputs, **choice))


PARTS = {
    "bert": ("encoder.layer.{}.attention", "self.query", "self.key", "self.value", "output.dense", DIM**-0.5),
    "gpt2": ("h.{}.attn", "c_attn", "c_attn", "c_attn", "c_proj", DIM**-0.5),
    "t5": ("{}.block.{}.layer.0.SelfAttention", "q", "k", "v", "o", 1.0),
}
"""Where a family's attention is, its projections and the scale of its scores. (peft adds GPT-2's after the output
projection, past which the paper's formula does not go.)"""


def _by_hand(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """softmax(q K_P^T) V_P in plain loops over rows and heads: [b, t, d]."""
    out = torch.zeros_like(query)
    for row in range(len(query)):
        for head in range(HEADS):
            cut = slice(head * DIM, head * DIM + DIM)
            out[row][:, cut] = (query[row][:, cut] @ keys[:, cut].T * scale).softmax(-1) @ values[:, cut]
    return out


@pytest.mark.parametrize("family", PARTS)
@torch.no_grad()
def test_equals_the_formula(family: str) -> None:
    tiny = _tiny(family)
    model, plain = tiny.model(), tiny.model()
    adaptation = refarch.attach(model, "adaption-prompt", length=LENGTH)
    randomise(adaptation, scale=0.7)
    where, q, k, v, o, scale = PARTS[family]
    for address, function in adaptation.functions():
        _, stack, layer, *_ = address.split(".")
        path = where.format(stack, layer) if family == "t5" else where.format(layer)
        attention, third = plain.base_model.get_submodule(path), slice(0, 32)
        keys, values = (attention.get_submodule(name)(function.tokens) for name in (k, v))
        if q == k:  # fused
            keys, values = keys[:, 32:64], values[:, 64:]
        seen: dict[str, Tensor] = {}

        def note(_: Any, __: Any, output: Tensor, seen: Any = seen, third: slice = third) -> None:
            seen["query"] = output[..., third]

        def more(
            _: Any, args: Any, seen: Any = seen, keys: Any = keys, values: Any = values, address: str = address
        ) -> Any:
            return (args[0] + _gate(adaptation, address) * _by_hand(seen["query"], keys, values, scale),)

        attention.get_submodule(q).register_forward_hook(note)
        attention.get_submodule(o).register_forward_pre_hook(more)
    batch = tiny.batch(model, (5, 7))
    found, wanted = model(**batch).logits, plain(**batch).logits
    assert (found - tiny.model()(**batch).logits).abs().max() > 1e-2
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_parameters_of_a_layer_of_bert_base() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert refarch.attach(model, "adaption-prompt", length=10).count() == 12 * (10 * 768 + 1)
    for adaptation in refarch.adaptations(model):
        adaptation.detach()
    assert refarch.attach(model, "adaption-prompt", length=10, layers={"last": 5}).count() == 5 * (10 * 768 + 1)


def test_it_starts_with_random_prompts_and_closed_gates() -> None:
    adaptation = refarch.attach(_tiny("bert").model(), "adaption-prompt")
    for address, function in adaptation.functions():
        assert function.tokens.std() > 0.8 and not _gate(adaptation, address).any()
