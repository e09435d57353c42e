"""An adapted model goes on being an ordinary model: copied, saved, trained, compiled."""

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import engine_models as em
import pytest
import torch
import transformers

import refarch

KINDS = {
    "lora": em.module("Narrow", "scaled addition", ("attention.query", "ffn.down")),
    "adapter": em.module("Mlp", "scaled addition", "ffn", form="mlp"),
    "inputs": em.module("Tokens", "concatenation", "inputs"),
    "prefix": em.module("KeyValues", "concatenation", "attention.key_value"),
    "selection": em.module(None, "selection", ("head", "ffn.down"), insertion="sequential"),
}


def _all(model: Any) -> list[refarch.Adaptation]:
    return [refarch.attach(model, em.technique(spec), name=f"a-{kind}") for kind, spec in KINDS.items()]


@pytest.mark.parametrize("name", em.FAMILIES)
def test_a_deep_copy_is_independent(name: str) -> None:
    model, values = em.tiny(name), em.batch(name)
    plain = model(**values).logits
    _all(model)
    expected = model(**values).logits
    clone = copy.deepcopy(model)
    assert torch.equal(clone(**values).logits, expected)
    theirs = refarch.adaptations(clone)
    assert all(adaptation.model is clone for adaptation in theirs)
    assert not {id(p) for p in clone.parameters()} & {id(p) for p in model.parameters()}
    with torch.no_grad():
        for adaptation in theirs:
            for parameter in adaptation.parameters():
                parameter.mul_(1.5)
    changed = clone(**values).logits
    assert not torch.allclose(changed, expected, atol=1e-4)
    assert torch.equal(model(**values).logits, expected)
    with theirs[0].disabled():
        assert torch.equal(model(**values).logits, expected)
    clone(**values).loss.backward()
    assert all(p.grad is None for p in model.parameters())
    for adaptation in refarch.adaptations(model):
        adaptation.detach()
    assert torch.equal(model(**values).logits, plain)
    assert torch.equal(clone(**values).logits, changed)
    for adaptation in reversed(refarch.adaptations(clone)):
        adaptation.detach()
    assert torch.equal(clone(**values).logits, plain)
    assert not any("refarch" in key for key in clone.state_dict())
    assert not any(key.startswith("_refarch") for module in clone.modules() for key in vars(module))


@pytest.mark.parametrize("name", em.FAMILIES)
def test_what_is_saved_after_detaching_is_the_plain_model(name: str, tmp_path: Path) -> None:
    model, values = em.tiny(name), em.batch(name)
    plain = model(**values).logits
    model.save_pretrained(tmp_path / "before")
    for adaptation in _all(model):
        adaptation.detach()
    model.save_pretrained(tmp_path / "after")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "before" / file).read_bytes() == (tmp_path / "after" / file).read_bytes()
    again = type(model).from_pretrained(tmp_path / "after")
    torch.testing.assert_close(again(**values).logits, plain, rtol=0, atol=0)


def test_a_detached_model_is_let_go() -> None:
    model = em.tiny("bert")
    for adaptation in _all(model):
        adaptation.detach()
    del adaptation
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("name", em.FAMILIES)
def test_a_training_loop_over_everything_learns_and_leaves_the_base(name: str) -> None:
    model, values = em.tiny(name), em.batch(name)
    base = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    made = _all(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(25):
        loss = model(**values).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    for adaptation in made:
        adaptation.detach()
    assert all(torch.equal(tensor, base[key]) for key, tensor in model.state_dict().items())


def test_the_head_trains_beside_a_technique_and_comes_back() -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    plain, head = model(**values).logits, model.classifier.weight
    adaptation = refarch.attach(model, "lora", train_head=True)
    names = {key for key, p in adaptation.named_parameters() if key.startswith("base:")}
    assert names == {"base:classifier.weight", "base:classifier.bias"}
    with torch.no_grad():
        model.classifier.weight.mul_(3)
    assert not torch.allclose(model(**values).logits, plain)
    adaptation.detach()
    assert model.classifier.weight is head and torch.equal(model(**values).logits, plain)


def test_for_inference_only_nothing_trains() -> None:
    model = em.tiny("bert")
    for kind in KINDS:
        assert refarch.attach(model, em.technique(KINDS[kind]), name=f"x-{kind}", trainable=False).count() == 0
    assert not any(p.requires_grad for p in model.parameters())


def test_detaching_while_disabled_is_no_error() -> None:
    model = em.tiny("bert")
    adaptation = refarch.attach(model, "lora")
    with adaptation.disabled():
        adaptation.detach()
    assert adaptation.state == "detached"


def test_new_parameters_are_float32_whatever_the_default_is() -> None:
    model = em.tiny("bert")
    torch.set_default_dtype(torch.bfloat16)
    try:
        adaptation = refarch.attach(model, "lora")
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in adaptation.parameters()} == {torch.float32}
    adaptation.detach()
    assert {p.dtype for p in refarch.attach(model, "lora", dtype=torch.float64).parameters()} == {torch.float64}


def test_every_kind_of_model_that_a_family_names_takes_lora() -> None:
    for name in em.FAMILIES:
        for auto in em.family(name).tiny.auto_classes:
            assert hasattr(transformers, auto)
            model = em.tiny(name, auto)
            assert refarch.attach(model, "lora", rank=2).count() > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "adapter"])
def test_compiled_equals_eager(kind: str) -> None:
    model, values = em.tiny("bert", num_hidden_layers=1), em.batch("bert")
    adaptation = refarch.attach(model, em.technique(KINDS[kind]))
    eager = model(**values)
    eager.loss.backward()
    wanted = [p.grad.clone() for p in adaptation.parameters()]  # type: ignore[union-attr]
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager")
    found = compiled(**values)
    found.loss.backward()
    torch.testing.assert_close(found.logits, eager.logits, rtol=1e-4, atol=1e-5)
    for parameter, gradient in zip(adaptation.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)
    with adaptation.disabled():
        torch.testing.assert_close(compiled(**values).logits, model(**values).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_to_native_code_equals_eager() -> None:
    model, values = em.tiny("bert", num_hidden_layers=1), em.batch("bert")
    refarch.attach(model, em.technique(KINDS["lora"]))
    eager = model(**values).logits
    torch.testing.assert_close(torch.compile(model)(**values).logits, eager, rtol=1e-4, atol=1e-5)
