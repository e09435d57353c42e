"""Every integration form at a module equals the same sum written by hand as a hook on an untouched copy."""

import copy
from collections.abc import Callable
from typing import Any

import engine_models as em
import pytest
import torch
from torch import Tensor

import refarch
from refarch.architecture import Gate

REAL = {6: [6, 4]}
"""How many tokens of each row are real, in a batch of so many; all are in what T5's decoder gets."""
Hand = Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]
"""(the adaptation's parameters by their last name, x, y) -> what the module shall compute."""


def _gate(p: dict[str, Tensor], read: Tensor, by: str, kind: str) -> Tensor:
    activation = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "identity": lambda a: a}[kind]
    if by == "learned":
        return activation(p["bias"])
    g = activation(read @ p["weight"] + p["bias"])
    if by == "token":
        return g[..., None]
    counts = REAL.get(read.shape[1], [read.shape[1]] * len(read))
    return torch.stack([row[:count].mean() for row, count in zip(g, counts, strict=True)])[:, None, None]


def _mlp(p: dict[str, Tensor], x: Tensor) -> Tensor:
    return torch.tanh(x @ p["down.weight"].t() + p["down.bias"]) @ p["up.weight"].t() + p["up.bias"]


ADD = {"direct": "direct addition", "scaled": "scaled addition", "gated": "gated addition"}
FORMS: dict[str, tuple[str, str, dict[str, Any], Hand]] = {
    "parallel direct": ("Line", ADD["direct"], {}, lambda p, x, y: y + x @ p["matrix"].t()),
    "parallel scaled": ("Line", ADD["scaled"], {}, lambda p, x, y: y + 0.7 * (x @ p["matrix"].t())),
    "parallel learned scale": (
        "LearnedScale",
        ADD["scaled"],
        {},
        lambda p, x, y: y + p["scale"] * (x @ p["matrix"].t()),
    ),
    "parallel low rank": (
        "Narrow",
        ADD["scaled"],
        {},
        lambda p, x, y: y + 0.6 * (x @ p["down"].t() @ p["up"].t()),
    ),
    "parallel low rank, no scale": (
        "Narrow",
        ADD["direct"],
        {},
        lambda p, x, y: y + x @ p["down"].t() @ p["up"].t(),
    ),
    "parallel mlp": ("Mlp", ADD["scaled"], {"form": "mlp"}, lambda p, x, y: y + 1.3 * _mlp(p, x)),
    "sequential direct": (
        "Mlp",
        ADD["direct"],
        {"form": "mlp", "insertion": "sequential"},
        lambda p, x, y: y + _mlp(p, y),
    ),
    "sequential low rank": (
        "Narrow",
        ADD["scaled"],
        {"insertion": "sequential"},
        lambda p, x, y: y + 0.6 * (y @ p["down"].t() @ p["up"].t()),
    ),
    "vector": ("Offset", ADD["direct"], {"form": "vector", "intra": "none"}, lambda p, x, y: y + p["vector"]),
    "rescaling": ("Factors", "rescaling", {}, lambda p, x, y: y * p["factors"]),
}
for _by in ("learned", "token", "example"):
    for _convex in (False, True):
        for _insertion in ("parallel", "sequential"):
            _kind = {"learned": "identity", "token": "tanh", "example": "sigmoid"}[_by]

            def _hand(
                p: dict[str, Tensor],
                x: Tensor,
                y: Tensor,
                by: str = _by,
                convex: bool = _convex,
                insertion: str = _insertion,
                kind: str = _kind,
            ) -> Tensor:
                read = x if insertion == "parallel" else y
                g = _gate(p, read, by, kind)
                return ((1 - g) if convex else 1) * y + g * _mlp(p, read)

            _fields = {
                "form": "mlp",
                "insertion": _insertion,
                "gate": Gate(by=_by, convex=_convex, activation=_kind, initial=0.3),  # type: ignore[arg-type]
            }
            FORMS[f"gated {_insertion} {_by} {'convex' if _convex else 'additive'}"] = (
                "Mlp",
                ADD["gated"],
                _fields,
                _hand,
            )


def _parameters(adaptation: refarch.Adaptation, address: str) -> dict[str, Tensor]:
    """The parameters of one insertion, function and gate, by their name within it."""
    found = {}
    for name, parameter in adaptation.named_parameters():
        if f".{address}." in f".{name}":
            found[name.split(f"{address}.", 1)[1].removeprefix("sublayer.")] = parameter
    return found


def _randomise_gate(adaptation: refarch.Adaptation) -> None:
    with torch.no_grad():
        for insertion in adaptation.insertions:
            if insertion.gate is not None and insertion.gate.weight is not None:
                insertion.gate.weight.normal_(std=0.3)


def _attached(name: str, form: str, slot: str, layer: int = 1) -> tuple[Any, Any, refarch.Adaptation, Hand]:
    function, integration, fields, hand = FORMS[form]
    model = em.tiny(name)
    plain = copy.deepcopy(model)
    layers: dict[str, Any] = {"stacks": ["decoder" if name != "bert" else "encoder"]}
    if slot != "embedding":  # which is of no layer
        layers["indices"] = [layer]
    adaptation = refarch.attach(model, em.technique(em.module(function, integration, slot, **fields)), layers=layers)
    _randomise_gate(adaptation)
    return model, plain, adaptation, hand


def _assert_equal_and_at_work(
    model: Any, plain: Any, values: dict[str, Tensor], adaptation: refarch.Adaptation
) -> None:
    found = model(**values).logits
    torch.testing.assert_close(found, plain(**values).logits, rtol=1e-5, atol=1e-5)
    with adaptation.disabled():
        assert not torch.allclose(model(**values).logits, found, atol=1e-4)


def _stack(name: str) -> str:
    return "encoder" if name == "bert" else "decoder"


@pytest.mark.parametrize("name", em.FAMILIES)
@pytest.mark.parametrize("form", FORMS)
def test_form_at_a_linear_slot_equals_the_hand_written_sum(form: str, name: str) -> None:
    for slot in ("ffn.down", "attention.value"):
        model, plain, adaptation, hand = _attached(name, form, slot)
        path, part = em.PATHS[name][slot]
        own = _parameters(adaptation, f"{_stack(name)}.1.{slot}")
        em.add_edit(plain, path.format(1), part, lambda x, y, own=own, hand=hand: hand(own, x, y))
        values = em.batch(name)
        expected, found = plain(**values), model(**values)
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
        wanted = torch.autograd.grad(expected.loss, list(own.values()))
        given = torch.autograd.grad(found.loss, list(own.values()))
        for key, a, b in zip(own, given, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")
            assert a.abs().max() > 0, key
        with adaptation.disabled():
            assert not torch.allclose(model(**values).logits, found.logits, atol=1e-4)


@pytest.mark.parametrize("name", em.FAMILIES)
@pytest.mark.parametrize("slot", ["ffn.norm", "layer", "embedding"])
@pytest.mark.parametrize(
    "form", ["sequential direct", "rescaling", "sequential low rank", "gated sequential token convex"]
)
def test_form_at_other_kinds_of_slot(form: str, slot: str, name: str) -> None:
    model, plain, adaptation, hand = _attached(name, form, slot)
    path, part = em.PATHS[name][slot]
    own = _parameters(adaptation, "embedding" if slot == "embedding" else f"{_stack(name)}.1.{slot}")
    em.add_edit(plain, path.format(1), part, lambda x, y: hand(own, x, y))
    values = em.batch(name)
    found = em.logits(model, values)
    torch.testing.assert_close(found, em.logits(plain, values), rtol=1e-5, atol=1e-5)
    with adaptation.disabled():  # the module is one that the model really calls
        assert not torch.allclose(em.logits(model, values), found, atol=1e-4)


@pytest.mark.parametrize("name", em.FAMILIES)
@pytest.mark.parametrize("form", ["parallel mlp", "parallel low rank", "gated parallel token additive"])
@pytest.mark.parametrize(
    ("slot", "first", "last"),
    [("ffn", "ffn.up", "ffn.down"), ("attention", "attention.query", "attention.output")],
)
def test_parallel_at_a_sublayer_reads_where_it_begins(slot: str, first: str, last: str, form: str, name: str) -> None:
    model, plain, adaptation, hand = _attached(name, form, slot)
    own = _parameters(adaptation, f"{_stack(name)}.1.{slot}")
    read: dict[str, Tensor] = {}
    begin, _ = em.PATHS[name][first]
    end, _ = em.PATHS[name][last]
    plain.get_submodule(begin.format(1)).register_forward_pre_hook(lambda _, args: read.update(x=args[0]))
    em.add_edit(plain, end.format(1), None, lambda _, y: hand(own, read["x"], y))
    values = em.batch(name)
    _assert_equal_and_at_work(model, plain, values, adaptation)


@pytest.mark.parametrize("name", em.FAMILIES)
def test_parallel_at_a_layer_reads_the_residual_stream(name: str) -> None:
    model, plain, adaptation, hand = _attached(name, "parallel mlp", "layer")
    own = _parameters(adaptation, f"{_stack(name)}.1.layer")
    em.add_edit(plain, em.PATHS[name]["layer"][0].format(1), None, lambda x, y: hand(own, x, y))
    values = em.batch(name)
    _assert_equal_and_at_work(model, plain, values, adaptation)


@pytest.mark.parametrize("name", em.FAMILIES)
@pytest.mark.parametrize("slot", ["ffn.hidden", "attention.output:input"])
def test_rescaling_at_an_input(slot: str, name: str) -> None:
    model = em.tiny(name)
    plain = copy.deepcopy(model)
    layers = {"indices": [0], "stacks": [_stack(name)]}
    adaptation = refarch.attach(model, em.technique(em.module("Factors", "rescaling", slot)), layers=layers)
    (factors,) = adaptation.parameters()
    target = "ffn.down" if slot == "ffn.hidden" else "attention.output"
    leaf = plain.get_submodule(em.PATHS[name][target][0].format(0))
    leaf.register_forward_pre_hook(lambda _, args: (args[0] * factors, *args[1:]))
    values = em.batch(name)
    _assert_equal_and_at_work(model, plain, values, adaptation)
    assert torch.autograd.grad(model(**values).loss, factors)[0].abs().median() > 0


@pytest.mark.parametrize("name", em.FAMILIES)
@pytest.mark.parametrize("function", ["ByWeight", "OnInput", "OnOutput", "OnBoth"])
@pytest.mark.parametrize("slot", ["ffn.up", "attention.query"])
def test_transformation_equals_the_changed_weight(slot: str, function: str, name: str) -> None:
    model = em.tiny(name)
    plain = copy.deepcopy(model)
    layers = {"indices": [1], "stacks": [_stack(name)]}
    adaptation = refarch.attach(model, em.technique(em.module(function, "transformation", slot)), layers=layers)
    ((_, own),) = adaptation.functions()
    path, part = em.PATHS[name][slot]
    leaf = plain.get_submodule(path.format(1))
    transposed = "Conv1D" in type(leaf).__name__
    with torch.no_grad():
        weight = leaf.weight.t() if transposed else leaf.weight  # type: ignore[operator,union-attr]
        rows = slice(None) if part is None else slice(part * 32, part * 32 + 32)
        new = weight.clone()  # type: ignore[operator,union-attr]
        new[rows] = own.transform(weight[rows])  # type: ignore[index]
        weight.copy_(new)  # type: ignore[operator,union-attr]
    values = em.batch(name)
    found = model(**values)
    torch.testing.assert_close(found.logits, plain(**values).logits, rtol=1e-5, atol=1e-5)
    for gradient in torch.autograd.grad(found.loss, list(adaptation.parameters())):
        assert gradient.abs().max() > 0
