"""Routes and fusions against their definitions, written out on plain models with their own parameters."""

import copy
from typing import Any

import pytest
import torch
from engine_compositions import Map, expected_at, parts
from engine_models import batch, logits, module, technique, tiny
from torch import Tensor
from transformers import PreTrainedModel

import refarch
from refarch.errors import CompositionError

FAMILIES = ("bert", "gpt2", "llama")


def composed(family: str, text: str) -> tuple[PreTrainedModel, PreTrainedModel, Any, Any, dict[str, Any]]:
    """A model with three parts in an expression whose own parameters are nowhere neutral; and what it was."""
    model, values = tiny(family), batch(family)
    plain = copy.deepcopy(model)
    found = parts(model)
    composition = refarch.compose(model, text, name="mix")
    with torch.no_grad():
        for parameter in composition.tree.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model, plain, composition, found, values


def changes(x: Tensor, a: Any, b: Any, c: Any, f: Map) -> Tensor:
    """What each part changes, [3, ...]."""
    return torch.stack([e(f)(x) - f(x) for e in (a, b, c)])


def routed(gates: Any) -> Any:
    """The definition of a route, from g(path, x) [..., 3]."""

    def define(path: str, a: Any, b: Any, c: Any, f: Map) -> Map:
        return lambda x: f(x) + torch.einsum("...n,n...d->...d", gates(path, x), changes(x, a, b, c, f))

    return define


def check(family: str, text: str, gates: Any, around: Any = None) -> None:
    """A route computes its definition, and its gradients reach the gate and the parts."""
    model, plain, composition, found, values = composed(family, text)
    own = gates(composition, values)
    run = around(composition) if around else torch.no_grad()
    with torch.no_grad():
        want = expected_at(plain, found, values, routed(own))
    with run:
        got = logits(model, values)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    if got.requires_grad:
        got.sum().backward()
        assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in composition.parameters())


def weight(composition: Any, path: str, name: str = "route") -> Tensor:
    """The gate's parameter at a leaf."""
    return composition.tree.get_submodule(f"{name}.{path}.combiner").weight


@pytest.mark.parametrize("family", FAMILIES)
def test_a_soft_route_by_token(family: str) -> None:
    def gates(composition: Any, values: Any) -> Any:
        return lambda path, x: (x @ weight(composition, path).T).softmax(-1)

    check(family, "route(a, b, c)", gates)


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("top", [1, 2])
def test_a_hard_route_keeps_the_largest(top: int, renormalise: bool) -> None:
    if top == 1 and renormalise:
        return  # refused: nothing would train the gate

    def gates(composition: Any, values: Any) -> Any:
        def g(path: str, x: Tensor) -> Tensor:
            p = (x @ weight(composition, path).T).softmax(-1)
            least = p.sort(-1, descending=True).values[..., top - 1 : top]
            kept = torch.where(p >= least, p, 0.0)
            return kept / kept.sum(-1, keepdim=True) if renormalise else kept

        return g

    check("llama", f"route(a, b, c, top={top}, renormalise={str(renormalise).lower()})", gates)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_route_by_example_reads_the_mean_over_real_tokens(family: str) -> None:
    def gates(composition: Any, values: Any) -> Any:
        real = values["attention_mask"].unsqueeze(-1).float()

        def g(path: str, x: Tensor) -> Tensor:
            mean = (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
            return (mean @ weight(composition, path).T).softmax(-1).expand(-1, x.shape[1], -1)

        return g

    check(family, "route(a, b, c, by=example)", gates)


def test_a_route_by_task_reads_a_table() -> None:
    def gates(composition: Any, values: Any) -> Any:
        def g(path: str, x: Tensor) -> Tensor:
            return weight(composition, path)[[3, 1]].softmax(-1)[:, None].expand(-1, x.shape[1], -1)

        return g

    check("llama", "route(a, b, c, by=task, tasks=4)", gates, lambda composition: composition.tasks([3, 1]))
    model, _, composition, _, values = composed("llama", "route(a, b, c, by=task, tasks=4)")
    with pytest.raises(CompositionError, match="which rows are of which"):
        model(**values)
    with pytest.raises(CompositionError, match="2 rows, but 3 tasks"), composition.tasks([0, 1, 2]):
        model(**values)


@pytest.mark.parametrize("top", [None, 2])
def test_an_arrow_points_along_what_a_part_amplifies(top: int | None) -> None:
    """Ostapenko et al. 2024: logits |v . x|, with v the first right singular vector of the part's update."""
    model, values = tiny("bert"), batch("bert")
    plain = copy.deepcopy(model)
    found = {}
    for seed, name in enumerate("abc"):
        function = "Line" if name == "b" else "Narrow"
        spec = technique(module(function, "scaled addition", "ffn.down"))
        found[name] = refarch.attach(model, spec, name=name, seed=seed)
    refarch.compose(model, "route(a, b, c, gate=arrow" + (f", top={top})" if top else ")"))
    inner = {name: [i.function.scale * i.function.delta() for i in part.insertions] for name, part in found.items()}
    layer = {item.site.end.path: i for i, item in enumerate(found["a"].insertions)}

    def define(path: str, a: Any, b: Any, c: Any, f: Map) -> Map:
        deltas = [inner[name][layer[path]] for name in "abc"]
        scores = lambda x: torch.stack([(x @ torch.linalg.svd(d).Vh[0]).abs() for d in deltas], -1)  # noqa: E731

        def g(x: Tensor) -> Tensor:
            s = scores(x)
            if top:
                s = torch.where(s >= s.sort(-1, descending=True).values[..., top - 1 : top], s, -torch.inf)
            return s.softmax(-1)

        return lambda x: f(x) + sum(g(x)[..., i, None] * (x @ d.T) for i, d in enumerate(deltas))

    with torch.no_grad():
        want = expected_at(plain, {"a": found["a"], "b": found["a"], "c": found["a"]}, values, define)
        torch.testing.assert_close(logits(model, values), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fusion_attends_over_what_the_parts_change(family: str) -> None:
    model, plain, composition, found, values = composed(family, "fuse(a, b, c)")

    def define(path: str, a: Any, b: Any, c: Any, f: Map) -> Map:
        fusion = composition.tree.get_submodule(f"fuse.{path}.combiner")

        def run(x: Tensor) -> Tensor:
            each = changes(x, a, b, c, f)
            q = f(x) @ fusion.query.weight.T + fusion.query.bias
            k = each @ fusion.key.weight.T + fusion.key.bias
            alpha = torch.einsum("btd,nbtd->nbt", q, k).softmax(0)
            return f(x) + torch.einsum("nbt,nbtd->btd", alpha, each @ fusion.value.weight.T)

        return run

    with torch.no_grad():
        want = expected_at(plain, found, values, define)
    got = logits(model, values)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    got.sum().backward()
    assert all(p.grad is not None for p in composition.tree.parameters())


@pytest.mark.parametrize("operator", ["route", "fuse"])
@pytest.mark.parametrize("slot", ["attention.key_value", "ffn.down", "layer", "ffn"])
@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_even_weights_are_a_sum_at_every_slot(family: str, slot: str, operator: str) -> None:
    model, values = tiny(family), batch(family)
    for seed, name in enumerate("ab"):
        if slot == "attention.key_value":
            spec = module("KeyValues", "concatenation", slot)
        else:
            spec = module("Mlp", "scaled addition", slot, form="mlp")
        refarch.attach(model, technique(spec), name=name, seed=seed)
    summed = refarch.compose(model, "sum(a: 0.5, b: 0.5)")
    want = logits(model, values).detach()
    summed.detach(parts=False)
    composition = refarch.compose(model, f"{operator}(a, b)")
    with torch.no_grad():
        for name, parameter in composition.tree.named_parameters():
            parameter.copy_(torch.eye(len(parameter))) if "value" in name else parameter.zero_()
    got = logits(model, values)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    got.square().sum().backward()
    wanted = [p for n, p in composition.tree.named_parameters() if operator == "route" or "value" in n]
    assert all(bool(p.grad.abs().max() > 0) for p in wanted)


@pytest.mark.parametrize("text", ["r=route(a, b)", "r=route(a, b, by=example)", "r=fuse(a, b)"])
@pytest.mark.parametrize("slot", ["attention.key_value", "ffn"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_gates_work_inside_a_split(family: str, slot: str, text: str) -> None:
    """The rows of a route compute what they do without the split, and what was carried for all rows is not kept."""
    model, values = tiny(family), batch(family, rows=4)
    for seed, name in enumerate("abc"):
        spec = module("KeyValues", "concatenation", slot) if slot != "ffn" else None
        spec = spec or module("Mlp", "scaled addition", slot, form="mlp")
        refarch.attach(model, technique(spec), name=name, seed=seed)
    composition = refarch.compose(model, f"split({text}, c)", name="mix", seed=1)
    with torch.no_grad():
        for parameter in composition.tree.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    state = composition.tree.state_dict()
    with torch.no_grad(), composition.rows(["c", "r", "c", "r"]):
        mixed = model(**values).logits
    for group in composition.groups:
        assert all(carrier.held is None for carrier in group.carriers)
    composition.detach(parts=False)
    refarch.adaptations(model)[2].enabled = False
    alone = refarch.compose(model, text.removeprefix("r="), name="mix")
    keys = {name.removeprefix("r.").removeprefix(text[2:7].split("(")[0] + "."): value for name, value in state.items()}
    with torch.no_grad():
        for name, tensor in alone.tree.state_dict().items():
            tensor.copy_(keys[name.partition(".")[2]])
        want = model(**{key: value[[1, 3]] for key, value in values.items()}).logits
    real = values["attention_mask"][[1, 3]].bool() if want.ndim == 3 else slice(None)
    torch.testing.assert_close(mixed[[1, 3]][real], want[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", ["route(a, b, c)", "fuse(a, b, c)", "stack(a, route(b, c, by=example))"])
def test_combiners_train_with_their_parts_frozen(text: str) -> None:
    model, _, composition, _, values = composed("bert", text)
    composition.train_combiners_only()
    before = {name: p.detach().clone() for name, p in composition.named_parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in composition.tree.parameters()}
    optimizer = torch.optim.Adam(trained, lr=0.02)
    losses = []
    for _ in range(12):
        loss = model(**values).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    for name, parameter in composition.named_parameters():
        assert torch.equal(parameter, before[name]) != name.startswith("mix."), name


def test_a_disabled_part_gives_nothing_to_a_route() -> None:
    model, plain, composition, found, values = composed("llama", "route(a, b, c)")

    def gates(path: str, x: Tensor) -> Tensor:
        return (x @ weight(composition, path).T).softmax(-1) * torch.tensor([1.0, 0.0, 1.0])

    with torch.no_grad(), composition.parts["b"].disabled():
        want = expected_at(plain, found, values, routed(gates))
        torch.testing.assert_close(logits(model, values), want, rtol=1e-4, atol=1e-5)
    composition.detach()
    assert torch.equal(logits(model, values), logits(plain, values))


def test_the_same_seed_gives_the_same_combiners() -> None:
    one, other, third = (composed("bert", "stack(a, route(b, c))")[2] for _ in range(3))
    del third
    names = [name for name, _ in one.tree.named_parameters()]
    assert names == [name for name, _ in other.tree.named_parameters()]
    assert names == [f"route.encoder.layer.{i}.output.dense.combiner.weight" for i in range(len(names))]
