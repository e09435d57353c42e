"""The algebra of merging: what merges is exact, what does not is refused with the reason, and nothing gets lost."""

from typing import Any

import engine_models as em
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import refarch
from refarch.architecture import Gate, ModuleSpec
from refarch.errors import CompositionError

MERGING: dict[str, ModuleSpec] = {
    "sum": em.module("Narrow", "scaled addition", ("attention.query", "attention.value", "ffn.up")),
    "direct": em.module("Line", "direct addition", ("attention.query", "ffn.down")),
    "learned scale": em.module("LearnedScale", "scaled addition", "ffn.up"),
    "sequential": em.module("Line", "scaled addition", ("ffn.down", "attention.query"), insertion="sequential"),
    "gate": em.module("Line", "gated addition", "ffn.up", gate=Gate(initial=0.3)),
    "convex gate": em.module("Line", "gated addition", "ffn.up", gate=Gate(initial=0.3, convex=True)),
    "output": em.module("Factors", "rescaling", ("attention.key", "attention.value", "ffn.up")),
    "input": em.module("Factors", "rescaling", ("ffn.hidden", "attention.output:input")),
    "weight": em.module("ByWeight", "transformation", ("attention.query", "ffn.up")),
    "on input": em.module("OnInput", "transformation", ("attention.value", "ffn.up")),
    "on output": em.module("OnOutput", "transformation", ("attention.value", "ffn.up")),
    "on both": em.module("OnBoth", "transformation", ("attention.value", "ffn.up")),
}


def _attach(model: Any, form: str, index: int = 0) -> refarch.Adaptation:
    return refarch.attach(model, em.technique(MERGING[form]), name=f"{form.replace(' ', '-')}-{index}", seed=index)


def _close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", em.FAMILIES)
@pytest.mark.parametrize("form", MERGING)
def test_merge_unmerge_commit(form: str, name: str) -> None:
    model, values = em.tiny(name), em.batch(name)
    plain = model(**values).logits
    before = em.snapshot(model)
    adaptation = _attach(model, form)
    attached = model(**values).logits
    assert not torch.allclose(attached, plain, atol=1e-4)
    adaptation.merge()
    _close(model(**values).logits, attached)
    assert not any("_refarch_dispatcher" in vars(module) for module in model.modules())
    with pytest.raises(CompositionError, match=r"is merged; cannot detach"):
        adaptation.detach()
    adaptation.unmerge()
    assert torch.equal(model(**values).logits, attached)
    adaptation.detach()
    em.assert_restored(before, model)
    adaptation = _attach(model, form)
    adaptation.merge()
    adaptation.commit()
    after = em.snapshot(model)
    assert after["modules"] == before["modules"] and after["attributes"] == before["attributes"]
    assert after["grad"] == before["grad"] and refarch.adaptations(model) == ()
    _close(model(**values).logits, attached)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_sums_merge_in_any_order_and_come_out_last_in_first_out(data: Any) -> None:
    name = data.draw(st.sampled_from(em.FAMILIES))
    kinds = data.draw(st.lists(st.sampled_from(["sum", "direct", "learned scale"]), min_size=2, max_size=4))
    order = data.draw(st.permutations(range(len(kinds))))
    model, values = em.tiny(name), em.batch(name)
    before = em.snapshot(model)
    made = [_attach(model, kind, i) for i, kind in enumerate(kinds)]
    expected = model(**values).logits
    for index in order:
        made[index].merge()
        _close(model(**values).logits, expected)
    for index in reversed(order):
        made[index].unmerge()
        _close(model(**values).logits, expected)
    for adaptation in made:
        adaptation.detach()
    assert all(torch.equal(tensor, em.snapshot(model)["values"][key]) for key, tensor in before["values"].items())


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_merges_computes_the_same(data: Any) -> None:
    """Any stack of mergeable techniques, merged in any order: each merge is exact or refused without a trace."""
    name = data.draw(st.sampled_from(["gpt2", "bert"]))
    kinds = data.draw(st.lists(st.sampled_from(sorted(MERGING)), min_size=1, max_size=4))
    order = data.draw(st.permutations(range(len(kinds))))
    model, values = em.tiny(name), em.batch(name)
    made = [_attach(model, kind, i) for i, kind in enumerate(kinds)]
    expected = model(**values).logits
    tolerance = 1e-4 * float(expected.detach().abs().max().clamp(min=1))
    for index in order:
        weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        if made[index].merge_reasons():
            with pytest.raises(CompositionError):
                made[index].merge()
            assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in weights.items())
        else:
            made[index].merge()
        torch.testing.assert_close(model(**values).logits, expected, rtol=1e-3, atol=tolerance)
    for adaptation in made:  # what was refused merges once those before it are merged
        if adaptation.state == "attached":
            adaptation.merge()
    torch.testing.assert_close(model(**values).logits, expected, rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("name", em.FAMILIES)
def test_the_order_of_a_sum_and_a_rescaling_is_kept(name: str) -> None:
    model, values = em.tiny(name), em.batch(name)
    inner = refarch.attach(model, em.technique(em.module("Narrow", "scaled addition", "ffn.up")), name="inner")
    outer = refarch.attach(model, em.technique(em.module("Factors", "rescaling", "ffn.up")), name="outer")
    expected = model(**values).logits
    with pytest.raises(CompositionError, match=r"'inner' .* does not commute .* merge 'inner' first"):
        outer.merge()
    inner.merge()
    outer.merge()
    _close(model(**values).logits, expected)
    with pytest.raises(CompositionError, match="unmerge 'outer' first"):
        inner.unmerge()
    outer.unmerge()
    inner.unmerge()
    assert torch.equal(model(**values).logits, expected)


def test_factors_multiply_in_any_order() -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    made = [_attach(model, kind, i) for i, kind in enumerate(["output", "output", "input"])]
    expected = model(**values).logits
    for index in (1, 2, 0):
        made[index].merge()
        _close(model(**values).logits, expected)


NEVER = {
    "mlp": (em.module("Mlp", "direct addition", "ffn.down", form="mlp", insertion="sequential"), "not linear"),
    "token gate": (em.module("Line", "gated addition", "ffn.up", gate=Gate(by="token")), "gate depends on the input"),
    "norm": (em.module("Factors", "rescaling", "ffn.norm"), "of kind norm"),
    "sublayer": (em.module("Line", "scaled addition", "ffn"), "of kind sublayer"),
    "tokens": (em.module("Tokens", "concatenation", "inputs"), "no weight of one layer"),
    "prefix": (em.module("KeyValues", "concatenation", "attention.key_value"), "not a weight"),
    "vector": (em.module("Offset", "direct addition", "ffn.up", form="vector", intra="none"), "no weight delta"),
}


@pytest.mark.parametrize("kind", NEVER)
def test_what_never_merges_says_why(kind: str) -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    spec, reason = NEVER[kind]
    adaptation = refarch.attach(model, em.technique(spec))
    expected = model(**values).logits
    assert reason in adaptation.merge_reasons()[0]
    with pytest.raises(CompositionError, match=reason):
        adaptation.merge()
    assert adaptation.state == "attached" and torch.equal(model(**values).logits, expected)


class _Int8(torch.Tensor):
    """Stands for a quantised weight: a tensor subclass that only looks like floating point."""


class _FakeQuantised(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, (self.weight * 16).round() / 16, self.bias)


@pytest.mark.parametrize("kind", ["subclass", "own forward", "parametrised", "meta", "int8", "tied"])
def test_weights_that_are_not_plain_are_refused(kind: str) -> None:
    model = em.tiny("bert")
    attention = model.bert.encoder.layer[0].attention.self
    reason = ""
    if kind == "subclass":
        data = attention.query.weight.detach().as_subclass(_Int8)
        attention.query.weight, reason = nn.Parameter(data, requires_grad=False), "a _Int8, not a plain tensor"
    elif kind == "own forward":
        attention.query.__class__, reason = _FakeQuantised, "computes something else than its weight"
    elif kind == "parametrised":
        weight_norm(attention.query)
        reason = "computed from other parameters"
    elif kind == "tied":
        attention.query.weight, reason = attention.key.weight, "tied"
    adaptation = refarch.attach(model, "lora")
    if kind == "meta":
        attention.query.to("meta")
        reason = "not in memory"
    elif kind == "int8":
        attention.query.weight = nn.Parameter(torch.ones(32, 32, dtype=torch.int8), requires_grad=False)
        reason = "quantised"
    with pytest.raises(CompositionError, match=reason):
        adaptation.merge()
    assert adaptation.state == "attached"


def test_torchao_weights_are_refused() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    model, values = em.tiny("bert"), em.batch("bert")
    torchao.quantize_(model.bert.encoder, torchao.Int8WeightOnlyConfig())
    adaptation = refarch.attach(model, "lora")
    model(**values).loss.backward()
    with pytest.raises(CompositionError, match="not a plain"):
        adaptation.merge()


def test_an_overflow_is_refused() -> None:
    model = em.tiny("bert").to(torch.float16)
    adaptation = refarch.attach(model, "lora")
    before = em.snapshot(model)
    with torch.no_grad():
        for _, function in adaptation.functions():
            function.up.fill_(1e6)
    with pytest.raises(CompositionError, match="not finite"):
        adaptation.merge()
    after = em.snapshot(model)["values"]
    assert all(torch.equal(t, after[key]) for key, t in before["values"].items() if not key.startswith("refarch."))
