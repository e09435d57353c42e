"""Merging beside selections, sublayers and other merges: whatever would lose or overwrite something is refused."""

import engine_models as em
import pytest
import torch

import refarch
from refarch.errors import CompositionError

BIASES = em.module(None, "selection", ("ffn.up",), insertion="sequential", parameters=("bias",))
WEIGHTS = em.module(None, "selection", ("ffn.up",), insertion="sequential", parameters=("weight",))


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_selected_bias_keeps_a_rescaling_from_merging_but_not_a_sum(name: str) -> None:
    model, values = em.tiny(name), em.batch(name)
    refarch.attach(model, em.technique(BIASES), name="biases")
    total = refarch.attach(model, em.technique(em.module("Narrow", "scaled addition", "ffn.up")), name="sum")
    scale = refarch.attach(model, em.technique(em.module("Factors", "rescaling", "ffn.up")), name="scale")
    expected = model(**values).logits
    total.merge()
    torch.testing.assert_close(model(**values).logits, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(CompositionError, match="a selection trains a copy of its bias"):
        scale.merge()
    torch.testing.assert_close(model(**values).logits, expected, rtol=1e-4, atol=1e-5)


def test_unmerging_under_a_later_selection_is_refused() -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    before = em.snapshot(model)
    total = refarch.attach(model, em.technique(em.module("Narrow", "scaled addition", "ffn.up")), name="sum")
    total.merge()
    copies = refarch.attach(model, em.technique(WEIGHTS), name="copies")
    with torch.no_grad():
        for parameter in copies.parameters():
            parameter.mul_(1.5)
    expected = model(**values).logits
    with pytest.raises(CompositionError, match="'copies' trains a copy"):
        total.unmerge()
    assert torch.equal(model(**values).logits, expected)
    copies.detach()
    total.unmerge()
    total.detach()
    assert all(torch.equal(t, em.snapshot(model)["values"][key]) for key, t in before["values"].items())


def test_a_selection_merges_unmerges_and_keeps_its_parameters() -> None:
    model, values = em.tiny("gpt2"), em.batch("gpt2")
    plain = model(**values).logits
    before = em.snapshot(model)
    full = refarch.attach(model, "full")
    own = dict(full.named_parameters())
    with torch.no_grad():
        for parameter in own.values():
            parameter.mul_(1.1)
    expected = model(**values).logits
    full.merge()
    assert torch.equal(model(**values).logits, expected)
    assert model.lm_head.weight is model.transformer.wte.weight
    full.unmerge()
    assert torch.equal(model(**values).logits, expected)
    assert all(parameter is own[key] for key, parameter in full.named_parameters())  # an optimizer still has them
    full.detach()
    em.assert_restored(before, model)
    assert torch.equal(model(**values).logits, plain)


def test_committing_over_an_earlier_merge_waits_for_it() -> None:
    """Unmerging the earlier one would take the committed one out without a word."""
    model, values = em.tiny("bert"), em.batch("bert")
    spec = em.technique(em.module("Narrow", "scaled addition", "ffn.up"))
    first, second = (refarch.attach(model, spec, name=f"n{i}", seed=i) for i in range(2))
    expected = model(**values).logits
    first.merge()
    second.merge()
    with pytest.raises(CompositionError, match="commit 'n0' first"):
        second.commit()
    first.commit()
    second.commit()
    torch.testing.assert_close(model(**values).logits, expected, rtol=1e-4, atol=1e-5)
    assert refarch.adaptations(model) == ()


def test_merges_of_other_weights_come_out_in_any_order() -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    one = refarch.attach(model, em.technique(em.module("Line", "scaled addition", "ffn.up")), name="one")
    two = refarch.attach(model, em.technique(em.module("Line", "scaled addition", "ffn.down")), name="two")
    expected = model(**values).logits
    one.merge()
    two.merge()
    one.unmerge()
    two.unmerge()
    assert torch.equal(model(**values).logits, expected)


def test_an_adapter_that_reads_a_rescaled_input_keeps_the_rescaling_from_merging() -> None:
    """Merged, the factors would move behind the place where the sublayer's adapter reads."""
    model, values = em.tiny("bert"), em.batch("bert")
    adapter = em.technique(em.module("Mlp", "scaled addition", "ffn", form="mlp"))
    inner = refarch.attach(model, adapter, name="adapter")
    outer = refarch.attach(model, em.technique(em.module("Factors", "rescaling", "ffn.up:input")), name="scale")
    expected = model(**values).logits
    with pytest.raises(CompositionError, match="'adapter' was attached before and reads"):
        outer.merge()
    inner.detach()
    expected = model(**values).logits
    outer.merge()
    torch.testing.assert_close(model(**values).logits, expected, rtol=1e-4, atol=1e-5)


def test_the_base_of_what_is_attached_after_a_commit_is_the_new_base(tmp_path: object) -> None:
    model = em.tiny("bert")
    spec = em.technique(em.module("Narrow", "scaled addition", "ffn.up"))
    first = refarch.attach(model, spec, name="first")
    old = first.base_fingerprint()
    refarch.attach(model, spec, name="second")
    first.merge()
    assert refarch.adaptations(model)[1].base_fingerprint() == old
    first.commit()
    late = refarch.attach(model, spec, name="third").base_fingerprint()
    assert late.content != old.content and late.structure == old.structure


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_selection_follows_its_model_to_another_dtype(dtype: torch.dtype) -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    copies = refarch.attach(model, em.technique(WEIGHTS))
    model.to(dtype)
    with copies.disabled():
        model(**values)
    model(**values)
    copies.detach()
    assert {p.dtype for p in model.parameters()} == {dtype}
    model(**values)


def test_part_of_a_fused_projection_cannot_be_selected() -> None:
    model = em.tiny("gpt2")
    before = em.snapshot(model)
    part = em.module(None, "selection", ("attention.query",), insertion="sequential", parameters=("bias",))
    with pytest.raises(refarch.RefarchError, match=r"one projection of 3 parts"):
        refarch.attach(model, em.technique(part))
    em.assert_restored(before, model)
    whole = part.model_copy(update={"workspace": ("attention.query", "attention.key", "attention.value")})
    assert refarch.attach(model, em.technique(whole)).count() == 2 * 96
