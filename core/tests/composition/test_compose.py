"""Running operators against their definitions, written out on plain models with a hook at the leaf."""

import copy
from typing import Any

import pytest
import torch
from engine_compositions import Map, expected, parts
from engine_models import FAMILIES, PATHS, assert_restored, batch, edited, logits, module, snapshot, technique, tiny
from torch import Tensor, nn

import refarch
from refarch.errors import CompositionError

EXPRESSIONS = {
    "stack(a, b, c)": lambda a, b, c, f: c(b(a(f))),
    "stack(c, b, a)": lambda a, b, c, f: a(b(c(f))),
    "sum(a: 0.5, b: -0.25, c: 2)": lambda a, b, c, f: (
        lambda x: f(x) + 0.5 * (a(f)(x) - f(x)) - 0.25 * (b(f)(x) - f(x)) + 2 * (c(f)(x) - f(x))
    ),
    "sum(b: 0.3)": lambda a, b, c, f: lambda x: f(x) + 0.3 * (b(f)(x) - f(x)),
    "stack(c, sum(a: 0.5, b: 0.7))": lambda a, b, c, f: (
        lambda x: c(f)(x) + 0.5 * (a(c(f))(x) - c(f)(x)) + 0.7 * (b(c(f))(x) - c(f)(x))
    ),
    "stack(sum(a: 0.5, b: 0.7), c)": lambda a, b, c, f: c(
        lambda x: f(x) + 0.5 * (a(f)(x) - f(x)) + 0.7 * (b(f)(x) - f(x))
    ),
    "sum(stack(a, b): 0.5, c)": lambda a, b, c, f: lambda x: f(x) + 0.5 * (b(a(f))(x) - f(x)) + (c(f)(x) - f(x)),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", EXPRESSIONS)
def test_an_expression_computes_its_definition(family: str, text: str) -> None:
    model, values = tiny(family), batch(family)
    logits(model, values)  # with labels, some models note in their configuration what kind of problem it is
    plain, before = copy.deepcopy(model), snapshot(model)
    found = parts(model, text)
    composition = refarch.compose(model, text)
    with torch.no_grad():
        want = expected(plain, found, values, EXPRESSIONS[text])
        torch.testing.assert_close(logits(model, values), want, rtol=1e-4, atol=1e-5)
        with composition.disabled():
            assert torch.equal(logits(model, values), logits(plain, values))
    composition.detach()
    for adaptation in refarch.adaptations(model):
        adaptation.detach()
    assert_restored(before, model)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_each_part_is_disabled_by_its_name(text: str) -> None:
    model, values = tiny("llama"), batch("llama")
    plain = copy.deepcopy(model)
    found = parts(model, text)
    composition = refarch.compose(model, text)
    keep: Any = lambda f: f  # noqa: E731
    for name, part in composition.parts.items():
        with part.disabled(), torch.no_grad():
            off = {"a": lambda a, b, c, f: EXPRESSIONS[text](keep, b, c, f)}
            off["b"] = lambda a, b, c, f: EXPRESSIONS[text](a, keep, c, f)
            off["c"] = lambda a, b, c, f: EXPRESSIONS[text](a, b, keep, f)
            want = expected(plain, found, values, off[name])
            torch.testing.assert_close(logits(model, values), want, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_definition() -> None:
    text = "stack(c, sum(a: 0.5, b: 0.7))"
    model, values = tiny("gpt2"), batch("gpt2")
    plain = copy.deepcopy(model)
    found = parts(model)
    refarch.compose(model, text)
    parameters = [p for part in found.values() for p in part.parameters()]
    got = torch.autograd.grad(logits(model, values).square().sum(), parameters)
    want = torch.autograd.grad(expected(plain, found, values, EXPRESSIONS[text]).square().sum(), parameters)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_a_part_of_a_fused_projection() -> None:
    model, values = tiny("gpt2"), batch("gpt2")
    plain = copy.deepcopy(model)
    query = technique(module("Line", "scaled addition", "attention.query", layers={"indices": [0]}))
    value = technique(module("Factors", "rescaling", "attention.value", layers={"indices": [0]}))
    a, b = refarch.attach(model, query, name="a"), refarch.attach(model, value, name="b")
    refarch.compose(model, "sum(a: 0.5, b: 2)")
    matrix, factors = a.insertions[0].function.matrix, b.insertions[0].function.factors
    path = PATHS["gpt2"]["attention.query"][0].format(0)
    clone = edited(plain, path, 0, lambda x, y: y + 0.5 * 0.7 * x @ matrix.T)
    clone = edited(clone, path, 2, lambda x, y: y + 2 * (y * factors - y))
    with torch.no_grad():
        torch.testing.assert_close(logits(model, values), logits(clone, values), rtol=1e-4, atol=1e-5)


def test_what_a_sublayer_reads_is_carried_through_an_operator() -> None:
    """A parallel module at ``ffn`` reads what ``ffn.up`` reads, also where a rescaling asks for the map twice."""
    model, values = tiny("llama"), batch("llama")
    one = technique(module("Mlp", "scaled addition", "ffn", form="mlp"))
    other = technique(module("Factors", "rescaling", "ffn.down:input"))
    refarch.attach(model, one, name="a"), refarch.attach(model, other, name="b")
    with torch.no_grad():
        stacked = logits(model, values)
        composition = refarch.compose(model, "stack(a, sum(b: 1))")
        torch.testing.assert_close(logits(model, values), stacked)
        composition.detach(parts=False)
        refarch.compose(model, "stack(a, sum(b: 0.0))")
        refarch.adaptations(model)[1].enabled = False
        want = logits(model, values)
        refarch.adaptations(model)[1].enabled = True
        torch.testing.assert_close(logits(model, values), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_prefixes_sum_as_outputs_of_attention(family: str) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    model, values = tiny(family), batch(family)
    clone = copy.deepcopy(model)
    specs = [technique(module("KeyValues", "concatenation", "attention.key_value")) for _ in "ab"]
    found = [
        refarch.attach(model, spec, name=name, seed=i) for i, (name, spec) in enumerate(zip("ab", specs, strict=True))
    ]
    refarch.compose(model, "sum(a: 0.4, b: -0.7)")
    own = {
        clone.base_model.get_submodule(one.site.end.path): (one.function, two.function)
        for one, two in zip(found[0].insertions, found[1].insertions, strict=True)
    }

    def attend(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **options: Any) -> Any:
        y = sdpa_attention_forward(module, q, k, v, mask, **options)[0]
        out, bias = y, options.get("position_bias")
        causal = q.shape[2] > 1 and mask is None and getattr(module, "is_causal", True)
        for w, function in zip((0.4, -0.7), own.get(module, ()), strict=False):
            keys, tokens = (
                t.reshape(len(t), k.shape[1], -1).transpose(0, 1).expand(len(k), -1, -1, -1) for t in function()
            )
            longer = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()[None, None] if causal else mask
            if longer is not None:
                longer = torch.cat(
                    [
                        torch.ones_like(longer[..., :3])
                        if longer.dtype == torch.bool
                        else torch.zeros_like(longer[..., :3]),
                        longer,
                    ],
                    dim=-1,
                )
            if bias is not None:
                options["position_bias"] = torch.cat([torch.zeros_like(bias[..., :3]), bias], dim=-1)
            with_prefix = sdpa_attention_forward(
                module, q, torch.cat([keys, k], 2), torch.cat([tokens, v], 2), longer, **options
            )[0]
            out = out + w * (with_prefix - y)
        return out, None

    AttentionInterface.register("test_sum", attend)
    AttentionMaskInterface.register("test_sum", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    clone.set_attn_implementation("test_sum")
    with torch.no_grad():
        torch.testing.assert_close(logits(model, values), logits(clone, values), rtol=1e-4, atol=1e-5)


def test_a_copy_that_comes_later_in_a_stack_takes_the_place() -> None:
    model, values = tiny("bert"), batch("bert")
    spec = technique(module(None, "selection", "ffn.norm"))
    for seed, name in enumerate("ab"):
        part = refarch.attach(model, spec, name=name)
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    with torch.no_grad():
        last = logits(model, values)
        refarch.adaptations(model)[1].enabled = False
        first = logits(model, values)
        refarch.adaptations(model)[1].enabled = True
        composition = refarch.compose(model, "stack(b, a)")
        assert torch.equal(logits(model, values), first)
        composition.parts["a"].enabled = False
        assert torch.equal(logits(model, values), last)
        composition.parts["a"].enabled = True
        with composition.disabled():
            torch.testing.assert_close(logits(model, values), logits(tiny("bert"), values))
        composition.detach(parts=False)
        assert torch.equal(logits(model, values), last)


def test_a_transformation_reads_the_weight_of_what_is_inside_it() -> None:
    """Beside another in a sum it reads the base's; around a sum, that sum's."""
    model, values = tiny("bert"), batch("bert")
    plain = copy.deepcopy(model)
    where = {"workspace": "ffn.up", "layers": {"indices": [1]}}
    a = refarch.attach(model, technique(module("Line", "scaled addition", **where)), name="a")
    b = refarch.attach(model, technique(module("ByWeight", "transformation", **where)), name="b")
    matrix, logs = a.insertions[0].function.matrix, b.insertions[0].function.logs
    path = PATHS["bert"]["ffn.up"][0].format(1)
    weight, bias = plain.get_submodule(path).weight, plain.get_submodule(path).bias
    wanted = {
        "sum(a: 0.5, b: 2)": weight + 0.5 * 0.7 * matrix + 2 * (weight * logs.exp() - weight),
        "stack(sum(a: 0.5), b)": (weight + 0.5 * 0.7 * matrix) * logs.exp(),
    }
    for text, target in wanted.items():
        composition = refarch.compose(model, text)
        clone = edited(plain, path, None, lambda x, y, target=target: nn.functional.linear(x, target, bias))
        with torch.no_grad():
            torch.testing.assert_close(logits(model, values), logits(clone, values), rtol=1e-4, atol=1e-5)
        composition.detach(parts=False)


def test_what_is_attached_later_stands_around_the_composition() -> None:
    model, values = tiny("llama"), batch("llama")
    plain = copy.deepcopy(model)
    found = parts(model)
    b = found["b"]
    a, c = found["a"], found["c"]
    composition = refarch.compose(model, "sum(a: 0.5, c: 0.5)")
    late = refarch.attach(model, technique(module("Factors", "rescaling", "ffn.down")), name="late", seed=9)

    def define(a: Any, b: Any, c: Any, f: Map) -> Map:
        inner = b(lambda x: f(x) + 0.5 * (a(f)(x) - f(x)) + 0.5 * (c(f)(x) - f(x)))
        return inner

    with torch.no_grad():
        late.enabled = False
        torch.testing.assert_close(logits(model, values), expected(plain, found, values, define), rtol=1e-4, atol=1e-5)
        late.enabled = True
        assert not torch.allclose(logits(model, values), expected(plain, found, values, define), atol=1e-3)
    with pytest.raises(CompositionError, match="is a part of composition"):
        a.detach()
    with pytest.raises(CompositionError, match="is a part of composition"):
        c.merge()
    b.detach()
    late.detach()
    composition.detach()
    assert not refarch.adaptations(model)
    assert torch.equal(logits(model, values), logits(plain, values))


WRONG = {
    "sum(a, tokens)": "slot 'inputs' \\(integration form: concatenation\\)",
    "route(a, tokens)": "tokens before the sequence",
    "split(a, copy)": "slot 'ffn.norm' \\(integration form: selection\\)",
    "sum(copy: 0.5)": "a trained copy takes a parameter's place",
    "route(a, b, gate=arrow)": "integration form: direct addition; functional form: mlp",
    "sum(a, missing)": "no adaptation of that name",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_impossible_is_said_before_anything_changes(text: str) -> None:
    model = tiny("bert")
    parts(model)
    refarch.attach(model, technique(module("Tokens", "concatenation", "inputs")), name="tokens")
    refarch.attach(model, technique(module(None, "selection", "ffn.norm")), name="copy")
    before = snapshot(model)
    with pytest.raises(CompositionError, match=WRONG[text]):
        refarch.compose(model, text)
    assert_restored(before, model)
    assert not refarch.compositions(model)


def test_a_failing_composition_takes_away_what_it_attached() -> None:
    model = tiny("bert")
    before = snapshot(model)
    specs = {
        "a": technique(module("Line", "scaled addition", "ffn.up")),
        "b": technique(module("Tokens", "concatenation", "inputs")),
    }
    with pytest.raises(CompositionError, match="inputs"):
        refarch.compose(model, "sum(a, b)", specs)
    assert_restored(before, model)
    composition = refarch.compose(model, "stack(a, b)", specs)
    assert list(composition.parts) == ["a", "b"] == [a.name for a in refarch.adaptations(model)]
    with pytest.raises(CompositionError, match="part of composition"):
        refarch.compose(model, "sum(a: 2)", name="again")
    composition.detach()
    assert_restored(before, model)
