"""Every installed technique in every operator: either it computes what follows from the definition, or it says why not.

Two parts with the same values make that simple: half of each is one of them, whatever the technique does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import refarch
from refarch.errors import CompositionError, SlotError
from refarch.testing import Tiny, all_tiny, outputs, randomise

TECHNIQUES = refarch.default_registry().names("technique")
OPTIONS: dict[str, dict[str, Any]] = {"fourierft": {"coefficients": 20}}
"""What a tiny model asks for."""
AUTO = {"bert": "AutoModelForSequenceClassification", "llama": "AutoModelForCausalLM"}


def made(family: str) -> Tiny:
    """A family's tiny model."""
    return next(one for one in all_tiny([family]) if one.auto_class == AUTO[family])


@pytest.fixture(params=[(family, name) for family in AUTO for name in TECHNIQUES], ids="-".join)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Tiny, PreTrainedModel, Any]]:
    """A model with two parts of one technique and the same values, nowhere neutral; the second one is off."""
    family, name = request.param
    tiny = made(family)
    model = tiny.model()
    try:
        parts = [refarch.attach(model, name, name=label, **OPTIONS.get(name, {})) for label in "xy"]
    except SlotError as error:
        pytest.skip(f"not for this backbone: {error.message}")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (p for p in parts[0].parameters() if p.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    parts[1].load_state_dict({name: value.clone() for name, value in parts[0].state_dict().items()})
    yield tiny, model, parts


def test_a_technique_composes_or_says_why_not(pair: tuple[Tiny, PreTrainedModel, Any]) -> None:
    tiny, model, (x, y) = pair
    batch = tiny.batch(model, lengths=(7, 5))
    both = outputs(model, batch)
    y.enabled = False
    one = outputs(model, batch)
    x.enabled = False
    base = outputs(model, batch)
    x.enabled = y.enabled = True
    assert not torch.allclose(one, base, atol=1e-4), "the technique does something"
    expected = {
        "stack(x, y)": both,
        "sum(x: 0.5, y: 0.5)": one,
        "sum(x: 0.0, y: 0.0)": base,
        "sum(x: 2, y: -1)": one,
        "route(x, y)": one,
        "fuse(x, y)": one,
    }
    for text, want in expected.items():
        judged = refarch.judge(text, model=model)
        if judged.verdict == "impossible":
            slots = [item.slot for item in judged.findings if item.verdict == "impossible"]
            with pytest.raises(CompositionError, match=slots[0].replace("?", r"\?")):
                refarch.compose(model, text)
            assert "stack" not in text
            continue
        composition = refarch.compose(model, text)
        with torch.no_grad():
            for name, parameter in composition.tree.named_parameters():  # even gates, and V the identity
                parameter.copy_(torch.eye(len(parameter))) if name.endswith(".value.weight") else parameter.zero_()
        torch.testing.assert_close(outputs(model, batch), want, rtol=1e-3, atol=2e-4, msg=lambda m, t=text: f"{t}: {m}")
        composition.detach(parts=False)


def test_a_technique_splits_a_batch_or_says_why_not(pair: tuple[Tiny, PreTrainedModel, Any]) -> None:
    tiny, model, (x, y) = pair
    batch = tiny.batch(model, lengths=(7, 7, 6))
    y.enabled = False
    one = outputs(model, batch)
    x.enabled = False
    base = outputs(model, batch)
    x.enabled = y.enabled = True
    if refarch.judge("split(x, y)", model=model).verdict == "impossible":
        with pytest.raises(CompositionError, match="a trained copy takes a parameter's place"):
            refarch.compose(model, "split(x, y)")
        return
    composition = refarch.compose(model, "split(x, y)")
    with composition.rows(["y", None, "x"]):
        mixed = outputs(model, batch)
    want = torch.stack([one[0], base[1], one[2]])
    real = slice(None) if mixed.ndim == 2 else batch["attention_mask"].bool()
    torch.testing.assert_close(mixed[real], want[real], rtol=1e-3, atol=1e-4)


def test_a_technique_averages_with_itself_to_itself(pair: tuple[Tiny, PreTrainedModel, Any]) -> None:
    tiny, model, (_, y) = pair
    batch = tiny.batch(model, lengths=(7, 5))
    y.enabled = False
    one = outputs(model, batch)
    y.enabled = True
    refarch.combine(model, "average(x, y)", name="z")
    assert [part.name for part in refarch.adaptations(model)] == ["z"]
    torch.testing.assert_close(outputs(model, batch), one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("expression", ["sum(hra: 0.5, lora: 0.5)", "stack(tiny, sum(hra: 0.5, lora: 0.5))"])
def test_attention_of_its_own_inside_a_change_of_the_input_is_refused_beforehand(expression: str) -> None:
    (tiny, *_) = all_tiny(["bert"])
    model = tiny.model()
    refarch.attach(model, "tiny-attention", name="tiny")
    for name in ("hra", "lora"):
        refarch.attach(model, name, slots=["attention.output"])
    with pytest.raises(CompositionError, match=r"attention\.output: part 'hra' .* and 'tiny' inside it"):
        refarch.compose(model, expression)
    randomise(refarch.adaptations(model)[0])
    composition = refarch.compose(model, "stack(sum(hra: 0.5, lora: 0.5), tiny)")  # the other way round
    assert outputs(model, tiny.batch(model, lengths=(7, 5))).isfinite().all()
    composition.detach()
