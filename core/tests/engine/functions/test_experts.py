"""Routed modules equal the mixture written out by hand; experts differ, and what a spec says holds for each of them."""

import copy
from pathlib import Path
from typing import Any

import engine_functions as ef
import engine_models as em
import pytest
import torch
from torch import Tensor

import refarch
from refarch.engine.functions.experts import Routed
from refarch.errors import CompositionError, PluginError, SpecError

EXPERTS = 4
# name -> function, fields of its spec, one expert's M(read) by hand from the expert's own parameters
FUNCTIONS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "low rank": (
        "Narrow",
        {"integration": "scaled addition"},
        lambda p, read: 0.6 * (read @ p["down"].t() @ p["up"].t()),
    ),
    "low rank after": (
        "Narrow",
        {"integration": "direct addition", "insertion": "sequential"},
        lambda p, read: read @ p["down"].t() @ p["up"].t(),
    ),
    "learned scale": (
        "LearnedScale",
        {"integration": "scaled addition"},
        lambda p, read: p["scale"] * (read @ p["matrix"].t()),
    ),
    "mlp": (
        "Mlp",
        {"integration": "direct addition", "form": "mlp", "insertion": "sequential"},
        lambda p, read: torch.tanh(read @ p["down.weight"].t() + p["down.bias"]) @ p["up.weight"].t() + p["up.bias"],
    ),
    "factors": ("Factors", {"integration": "rescaling"}, lambda p, read: p["factors"]),
}
ROUTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "soft": ("soft", {}),
    "fixed": ("fixed", {}),
    "hard": ("hard", {"top": 2}),
    "hard, not renormalised": ("hard", {"top": 1, "renormalise": False}),
}


def spec(function: str, routing: str, workspace: Any = "ffn.down", **fields: Any) -> refarch.TechniqueSpec:
    name, own, _ = FUNCTIONS[function]
    routing, router = ROUTERS[routing]
    fields = {**own, "inter": "fixed" if routing == "fixed" else "dynamic", "routing": routing, **fields}
    fields.setdefault("router", {"experts": EXPERTS, **router})
    return em.technique(em.module(name, fields.pop("integration"), workspace, **fields))


def attached(
    name: str, technique: refarch.TechniqueSpec, **choices: Any
) -> tuple[Any, Any, refarch.Adaptation, dict[str, Tensor]]:
    """Model, untouched copy, adaptation at layer 1 with a router at work, and the parameters by their last names."""
    model = em.tiny(name)
    plain = copy.deepcopy(model)
    layers = {"indices": [1], "stacks": ["encoder" if name == "bert" else "decoder"]}
    adaptation = refarch.attach(model, technique, layers=layers, **choices)
    with torch.no_grad():
        for _, function in adaptation.functions():
            assert isinstance(function, Routed)
            function.router.weight.normal_(std=0.5)
    ((_, function),) = adaptation.functions()
    return model, plain, adaptation, dict(function.named_parameters())


def weights(p: dict[str, Tensor], read: Tensor, routing: str) -> Tensor:
    """The experts' weights at each position, written out."""
    a = p["router.weight"]
    if routing == "fixed":
        return (a.exp() / a.exp().sum()).expand(*read.shape[:-1], -1)
    scores = (read @ a.t()).exp()
    w = scores / scores.sum(-1, keepdim=True)
    if routing == "soft":
        return w
    kind = ROUTERS[routing][1]
    order = w.argsort(dim=-1, descending=True).argsort(dim=-1)  # each expert's place
    w = torch.where(order < kind["top"], w, torch.zeros(()))
    return w / w.sum(-1, keepdim=True) if kind.get("renormalise", True) else w


def mixed(p: dict[str, Tensor], read: Tensor, function: str, routing: str) -> Tensor:
    total = torch.zeros(())
    for e in range(EXPERTS):
        own = {name.removeprefix(f"experts.{e}."): value for name, value in p.items() if f"experts.{e}." in name}
        total = total + weights(p, read, routing)[..., e, None] * FUNCTIONS[function][2](own, read)
    return total


@pytest.mark.parametrize(("name", "slot"), [("bert", "ffn.down"), ("gpt2", "attention.value")])
@pytest.mark.parametrize("routing", ROUTERS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_mixture_equals_the_formula_written_out(function: str, routing: str, slot: str, name: str) -> None:
    if function == "factors" and "not" in routing:
        with pytest.raises(ValueError, match="weights of all experts sum to one"):
            spec(function, routing)
        return
    model, plain, _, own = attached(name, spec(function, routing, slot))
    module = spec(function, routing).modules[0]

    def edit(x: Tensor, y: Tensor) -> Tensor:
        m = mixed(own, x if module.insertion == "parallel" else y, function, routing)
        return y * m if function == "factors" else y + m

    path, part = em.PATHS[name][slot]
    em.add_edit(plain, path.format(1), part, edit)
    values = em.batch(name)
    expected, found = plain(**values), model(**values)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    wanted = torch.autograd.grad(expected.loss, list(own.values()), allow_unused=True)
    given = torch.autograd.grad(found.loss, list(own.values()))
    for key, a, b in zip(own, given, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")
    assert given[list(own).index("router.weight")].abs().max() > 0


def test_factors_at_an_input_are_mixed_by_what_they_multiply() -> None:
    model, plain, _, own = attached("bert", spec("factors", "soft", "ffn.hidden"))
    leaf = plain.get_submodule(em.PATHS["bert"]["ffn.down"][0].format(1))
    leaf.register_forward_pre_hook(lambda _, args: args[0] * mixed(own, args[0], "factors", "soft"))
    values = em.batch("bert")
    torch.testing.assert_close(model(**values).logits, plain(**values).logits, rtol=1e-5, atol=1e-5)


def test_experts_start_different_and_the_seed_decides_how() -> None:
    first, again, other = (attached("bert", spec("mlp", "soft"), seed=seed)[3] for seed in (0, 0, 1))
    for name in ("down.weight", "up.weight"):
        values = [first[f"experts.{e}.{name}"] for e in range(EXPERTS)]
        assert all(not torch.equal(values[i], values[j]) for i in range(EXPERTS) for j in range(i))
    assert torch.equal(first["experts.3.up.weight"], again["experts.3.up.weight"])
    assert not torch.equal(first["experts.3.up.weight"], other["experts.3.up.weight"])


@pytest.mark.parametrize("function", ["low rank", "mlp"])
def test_an_expert_that_no_token_chooses_gets_no_gradient(function: str) -> None:
    model, _, adaptation, own = attached("bert", spec(function, "hard", router={"experts": 3, "top": 2}))
    ((_, routed),) = adaptation.functions()
    seen: list[Tensor] = []
    handle = routed.router.register_forward_hook(lambda _, args, w: seen.append((args[0], w)))  # type: ignore[arg-type]
    model(**em.batch("bert"))
    handle.remove()
    read = seen[0][0].flatten(0, -2)
    with torch.no_grad():  # a direction that all these tokens agree on: expert 2 is always the last
        own["router.weight"].copy_(torch.stack([read.mean(0), read.mean(0) * 0.5, -read.mean(0)]) * 5)
    agree = (read @ read.mean(0)) > 0
    model(**em.batch("bert")).loss.backward()
    w = routed.router(read)
    assert bool(agree.all()) and (w > 0).any(0).tolist() == [True, True, False]
    torch.testing.assert_close(w.sum(-1), torch.ones(len(w)))
    for e in range(3):
        reached = [bool(p.grad.any()) for p in routed.experts[e].parameters() if p.grad is not None]
        assert any(reached) is (e < 2)


def test_what_a_spec_says_of_parameters_holds_for_each_expert() -> None:
    sharing = {"sharing": "across model", "shared": ("up",), "frozen": ("down",), "learning_rate_scale": {"up": 3.0}}
    technique = spec("low rank", "soft", ("attention.query", "attention.value"), **sharing)
    adaptation = refarch.attach(em.tiny("bert"), technique)
    functions = [function for _, function in adaptation.functions()]
    assert len(functions) == 4 and all(isinstance(function, Routed) for function in functions)
    for e in range(EXPERTS):
        assert len({id(function.experts[e].up) for function in functions}) == 1
        assert not any(function.experts[e].down.requires_grad for function in functions)
    assert len({id(expert.up) for expert in functions[0].experts}) == EXPERTS
    groups = {group["lr"]: group["params"] for group in adaptation.parameter_groups(0.1)}
    assert {id(p) for p in groups[0.1 * 3.0]} == {id(expert.up) for expert in functions[0].experts}
    assert {id(p) for p in groups[0.1]} == {id(function.router.weight) for function in functions}
    assert adaptation.count() == EXPERTS * 3 * 32 + 4 * EXPERTS * 32  # the shared ups once, four routers


@pytest.mark.parametrize("field", ["frozen", "learning_rate_scale", "shared"])
def test_a_parameter_that_experts_do_not_have_is_named(field: str) -> None:
    value: Any = {"dwn": 2.0} if field == "learning_rate_scale" else ("dwn",)
    extra = {"sharing": "across model"} if field == "shared" else {}
    with pytest.raises(PluginError, match="'dwn'"):
        refarch.attach(em.tiny("bert"), spec("low rank", "soft", **{field: value}, **extra))


@pytest.mark.parametrize("routing", ["soft", "hard", "fixed"])
def test_saved_and_loaded_it_computes_the_same(routing: str, tmp_path: Path) -> None:
    technique = spec("mlp", routing)
    model, _, adaptation, own = attached("t5", technique)
    assert {name.split("ffn.down.")[1] for name in adaptation.state_dict()} == set(own)
    values = em.batch("t5")
    expected = em.logits(model, values)
    adaptation.save(tmp_path)
    other = em.tiny("t5")
    loaded = refarch.load(other, tmp_path, technique=technique)
    assert loaded.technique == adaptation.technique
    assert torch.equal(em.logits(other, values), expected)


def test_input_decides_so_it_does_not_merge_and_fixed_proportions_do() -> None:
    for function in ("low rank", "low rank after", "learned scale", "factors"):
        _, _, adaptation, _ = attached("bert", spec(function, "soft"))
        with pytest.raises(CompositionError, match="its experts are mixed by the input"):
            adaptation.merge()
        model, _, adaptation, _ = attached("gpt2", spec(function, "fixed", "attention.value"))
        values = em.batch("gpt2")
        expected = em.logits(model, values)
        adaptation.merge()
        torch.testing.assert_close(em.logits(model, values), expected, rtol=1e-5, atol=1e-5)


def test_routed_factors_keep_their_order_among_factors() -> None:
    model, _, routed, _ = attached("bert", spec("factors", "soft"))
    outer = refarch.attach(model, em.technique(em.module("Factors", "rescaling", "ffn.down"), name="outer"))
    with pytest.raises(CompositionError, match="does not commute"):
        outer.merge()
    expected = em.logits(model, em.batch("bert"))
    routed.detach()
    outer.merge()
    assert not torch.allclose(em.logits(model, em.batch("bert")), expected, atol=1e-4)


def test_options_may_say_how_many() -> None:
    option = {"type": "integer", "help": "for tests"}
    technique = em.technique(
        em.module(
            "Mlp", "direct addition", "ffn.down", form="mlp", inter="dynamic", routing="hard",
            router={"experts": "$experts", "top": "$chosen"}, insertion="sequential", arguments={},
        ),
        options=(
            refarch.Option(name="experts", default=5, **option),
            refarch.Option(name="chosen", default=2, **option),
        ),
    )  # fmt: skip
    configured = technique.configure({"experts": 3})
    router = configured.router(configured.technique.modules[0])
    assert router is not None and (router.experts, router.top) == (3, 2)
    for wrong, message in (
        ({"experts": 1}, "nothing to mix"),
        ({"experts": 3, "chosen": 4}, "chooses 4 of 3"),
        ({"chosen": 1}, "nothing trains it"),
        ({"experts": 0}, "experts"),
    ):
        configured = technique.configure(wrong)
        with pytest.raises(SpecError, match=message):
            configured.router(configured.technique.modules[0])
    with pytest.raises(SpecError, match="has no option"):
        refarch.TechniqueSpec.parse({**technique.model_dump(), "options": ()})


def test_two_products_for_low_rank_experts_equal_one_by_one() -> None:
    _, _, adaptation, own = attached("bert", spec("low rank", "soft"))
    ((_, routed),) = adaptation.functions()
    assert isinstance(routed, Routed) and all(isinstance(expert, ef.Narrow) for expert in routed.experts)
    x = torch.randn(2, 5, own["experts.0.down"].shape[1])
    stacked = routed(x)
    for expert in routed.experts:
        expert.dropout = 0.5
    assert torch.allclose(routed.eval()(x), stacked, atol=1e-6)  # nothing is dropped in evaluation
    assert not torch.allclose(routed.train()(x), stacked, atol=1e-3)
