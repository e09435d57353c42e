"""Whatever the form: base frozen, detach bit exact, checkpointing, autocast, generation; several at once."""

import copy
import itertools
from typing import Any

import engine_models as em
import pytest
import torch
from torch import Tensor

import refarch
from refarch.architecture import Gate, ModuleSpec

SPECS: dict[str, ModuleSpec] = {
    "parallel": em.module("Narrow", "scaled addition", ("attention.query", "attention.value", "ffn.up")),
    "parallel sublayer": em.module("Mlp", "scaled addition", ("ffn", "attention"), form="mlp"),
    "sequential": em.module(
        "Mlp", "direct addition", ("attention.output", "ffn.down", "layer"), form="mlp", insertion="sequential"
    ),
    "gated": em.module(
        "Mlp",
        "gated addition",
        ("ffn.down", "attention.value"),
        form="mlp",
        gate=Gate(by="token", convex=True, initial=0.5),
    ),
    "rescaling": em.module("Factors", "rescaling", ("attention.key", "attention.value", "ffn.hidden", "final_norm")),
    "transformation by weight": em.module("ByWeight", "transformation", ("attention.query", "ffn.up")),
    "transformation on input": em.module("OnInput", "transformation", ("attention.output", "ffn.up")),
    "transformation on output": em.module("OnOutput", "transformation", ("attention.output", "ffn.up")),
    "transformation on both": em.module("OnBoth", "transformation", ("attention.output", "ffn.up")),
    "inputs": em.module("Tokens", "concatenation", "inputs"),
    "key_value": em.module("KeyValues", "concatenation", "attention.key_value"),
    "attended": em.module(
        "HiddenTokens",
        "gated addition",
        "attention.key_value",
        form="tokens",
        input_type="data",
        gate=Gate(initial=0.5, activation="identity"),
        projected=True,
    ),
    "cross key_value": em.module("KeyValues", "concatenation", "cross_attention.key_value"),
    "selection": em.module(
        None, "selection", ("attention.norm", "ffn.down", "head"), insertion="sequential", parameters=("*",)
    ),
}
REPEATABLE = [form for form in SPECS if form != "selection"]


def _spec(form: str, name: str) -> refarch.TechniqueSpec:
    spec = SPECS[form]
    if form == "cross key_value" and name != "t5":
        pytest.skip("no cross-attention")
    if form == "rescaling" and name == "bert":
        spec = spec.model_copy(update={"workspace": tuple(s for s in spec.workspace if s != "final_norm")})
    return em.technique(spec)


def _gradients(model: Any, adaptation: refarch.Adaptation, values: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    model(**values).loss.backward()
    return {name: p.grad.clone() for name, p in adaptation.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", em.FAMILIES)
@pytest.mark.parametrize("form", SPECS)
def test_base_is_frozen_gradients_flow_and_detach_is_bit_exact(form: str, name: str) -> None:
    model, values = em.tiny(name), em.batch(name)
    model.get_parameter(next(n for n, _ in model.named_parameters())).requires_grad_(False)  # a mixed state to restore
    expected = model(**values).logits
    before = em.snapshot(model)
    adaptation = refarch.attach(model, _spec(form, name))
    gradients = _gradients(model, adaptation, values)
    assert gradients.keys() == {key for key, _ in adaptation.named_parameters()}
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    own = {id(p) for p in adaptation.parameters()}
    assert all(p.grad is None and not p.requires_grad for p in model.parameters() if id(p) not in own)
    assert {id(p) for p in model.parameters() if p.requires_grad} == own
    adaptation.detach()
    em.assert_restored(before, model)
    assert torch.equal(model(**values).logits, expected)
    assert refarch.adaptations(model) == ()


@pytest.mark.parametrize("name", em.FAMILIES)
@pytest.mark.parametrize("form", SPECS)
def test_gradient_checkpointing_gives_the_same_gradients(form: str, name: str) -> None:
    model, values = em.tiny(name, **({"dropout_rate": 0.0} if name == "t5" else {})), em.batch(name)
    adaptation = refarch.attach(model, _spec(form, name))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    model.config.use_cache = False
    plain = _gradients(model, adaptation, values)
    for reentrant in (False, True):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()  # what reentrant checkpointing asks of every frozen model
        found = _gradients(model, adaptation, values)
        model.gradient_checkpointing_disable()
        model.disable_input_require_grads()
        assert found.keys() == plain.keys()
        for key, gradient in plain.items():
            torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", em.FAMILIES)
@pytest.mark.parametrize("form", SPECS)
def test_bfloat16_autocast_and_a_bfloat16_base(form: str, name: str) -> None:
    model, values = em.tiny(name), em.batch(name)
    adaptation = refarch.attach(model, _spec(form, name))
    exact = em.logits(model, values)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**values)
    out.loss.backward()
    assert torch.isfinite(out.loss) and torch.isfinite(out.logits).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in adaptation.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (em.logits(model, values) - exact).abs().max() < 0.15 * exact.abs().max()
    low = em.tiny(name).to(torch.bfloat16)
    adaptation = refarch.attach(low, _spec(form, name))
    dtypes = {p.dtype for p in adaptation.parameters()}
    assert dtypes == ({torch.bfloat16} if form == "selection" else {torch.float32})
    loss = low(**values).loss
    loss.backward()
    assert torch.isfinite(loss) and all(p.grad is not None for p in adaptation.parameters())


@pytest.mark.parametrize("name", em.GENERATIVE)
@pytest.mark.parametrize("form", SPECS)
def test_generation_with_a_cache_equals_generation_without(form: str, name: str) -> None:
    model = em.tiny(name)
    values = em.left_padded(em.batch(name)) if name != "t5" else em.batch(name)
    plain = em.scores(model, values)
    refarch.attach(model, _spec(form, name))
    found, beams = em.scores(model, values), {"num_beams": 3, "num_return_sequences": 2}
    for one, other in (
        (found, em.scores(model, values, use_cache=False)),
        (em.scores(model, values, **beams), em.scores(model, values, use_cache=False, **beams)),
    ):
        assert torch.equal(one[0], other[0])
        torch.testing.assert_close(one[1], other[1], rtol=1e-4, atol=1e-4)
    if form != "selection":
        assert not torch.allclose(found[1], plain[1], atol=1e-3)


@pytest.mark.parametrize("name", em.GENERATIVE)
@pytest.mark.parametrize("form", REPEATABLE)
def test_padding_changes_nothing(form: str, name: str) -> None:
    if form == "inputs" and name == "t5":
        pytest.skip("the distance from the tokens to the text counts in T5: see test_engine_inputs")
    model, values = em.tiny(name), em.batch(name)
    refarch.attach(model, _spec(form, name))
    alone = {key: value[1:, :4] for key, value in values.items() if key != "labels"}
    tokens, wanted = em.scores(model, alone)
    padded = values if name == "t5" else em.left_padded(values)
    found_tokens, found = em.scores(model, padded)
    assert torch.equal(found_tokens[1, -8:], tokens[0, -8:])
    torch.testing.assert_close(found[:, 1], wanted[:, 0], rtol=1e-4, atol=1e-4)
    if name != "t5":  # logits with padding on the right
        right = model(**{key: value for key, value in values.items() if key != "labels"}).logits[1, :4]
        torch.testing.assert_close(right, model(**alone).logits[0], rtol=1e-4, atol=1e-5)


PAIRS = [("parallel", "sequential"), ("rescaling", "transformation by weight"), ("parallel", "rescaling")]


@pytest.mark.parametrize("name", em.FAMILIES)
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_last_one_attached_is_outermost(first: str, second: str, name: str) -> None:
    """F_2 wraps F_1: at one linear layer, compose by hand in both orders."""
    path, part = em.PATHS[name]["ffn.up"]
    forms = {
        "parallel": em.module("Narrow", "scaled addition", "ffn.up"),
        "sequential": em.module("Mlp", "direct addition", "ffn.up", form="mlp", insertion="sequential"),
        "rescaling": em.module("Factors", "rescaling", "ffn.up"),
        "transformation by weight": em.module("ByWeight", "transformation", "ffn.up"),
    }
    values = em.batch(name)
    where = {"indices": [0], "stacks": ["encoder" if name == "bert" else "decoder"]}
    outputs = []
    for order in ((first, second), (second, first)):
        model = em.tiny(name)
        plain = copy.deepcopy(model)
        made = [
            refarch.attach(model, em.technique(forms[kind]), layers=where, name=f"n{i}") for i, kind in enumerate(order)
        ]
        own = [next(a.functions())[1] for a in made]
        for function, kind in zip(own, order, strict=True):
            if kind == "transformation by weight":
                _transform_outer(plain, path.format(0), function, own[0] if order[0] == "rescaling" else None)
            elif kind == "rescaling":
                em.add_edit(plain, path.format(0), part, lambda x, y, f=function: y * f())
            elif kind == "parallel":
                em.add_edit(plain, path.format(0), part, lambda x, y, f=function: y + 0.6 * f(x))
            else:
                em.add_edit(plain, path.format(0), part, lambda x, y, f=function: y + f(y))
        found = model(**values).logits
        torch.testing.assert_close(found, plain(**values).logits, rtol=1e-4, atol=1e-5)
        outputs.append(found)
    if first == "parallel":
        assert not torch.allclose(*outputs, atol=1e-4)


def _transform_outer(plain: Any, path: str, function: Any, inner: Any) -> None:
    """Change the weight by hand; as the outer one, a transformation reads the inner one's rescaled weight."""
    leaf = plain.get_submodule(path)
    with torch.no_grad():
        weight = leaf.weight.t() if "Conv1D" in type(leaf).__name__ else leaf.weight
        factors = inner()[:, None] if inner is not None else torch.ones(1)
        weight.copy_(function.transform(weight * factors) / factors)  # the rescaling hook stays on the layer


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_several_at_once_disable_and_detach_in_any_order(name: str) -> None:
    kinds = ("parallel", "sequential", "inputs", "key_value", "selection")
    values = em.batch(name)
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 17):
        model = em.tiny(name)
        expected = model(**values).logits
        before = em.snapshot(model)
        made = [
            refarch.attach(model, _spec(kind, name), name=kind.replace(" ", "-"), seed=i)
            for i, kind in enumerate(kinds)
        ]
        with torch.no_grad():
            for parameter in made[-1].parameters():
                parameter.mul_(1.1)
        full = model(**values).logits
        assert [a.name for a in refarch.adaptations(model)] == [a.name for a in made]
        for index in order:  # leaving one out is the same as never having attached it
            with made[index].disabled():
                without = model(**values).logits
            assert torch.equal(model(**values).logits, full)
            assert not torch.allclose(without, full, atol=1e-5)
        for step, index in enumerate(order):
            with made[index].disabled():
                without = model(**values).logits
            made[index].detach()
            torch.testing.assert_close(model(**values).logits, without, rtol=1e-6, atol=1e-6)
            assert len(refarch.adaptations(model)) == 4 - step
        em.assert_restored(before, model)
        assert torch.equal(model(**values).logits, expected)


@pytest.mark.parametrize("name", em.GENERATIVE)
def test_concatenations_stand_in_order_the_last_outermost(name: str) -> None:
    """Two prefixes equal one whose tokens are the last one's and then the first one's; the same at the inputs."""
    values = em.batch(name)
    for form in ("inputs", "key_value"):
        two, one = em.tiny(name), em.tiny(name)
        parts = [refarch.attach(two, _spec(form, name), seed=i, name=f"n{i}") for i in range(2)]
        spec = SPECS[form].model_copy(update={"arguments": {"length": 6}})
        whole = refarch.attach(one, em.technique(spec))
        state = {key: torch.cat([parts[1].state_dict()[key], parts[0].state_dict()[key]]) for key in whole.state_dict()}
        whole.load_state_dict(state)
        torch.testing.assert_close(em.logits(two, values), em.logits(one, values), rtol=1e-5, atol=1e-5)
