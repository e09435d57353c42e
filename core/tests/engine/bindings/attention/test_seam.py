"""A gated addition at key_value, and tokens that pass through the layer's own projections, beside other modules."""

from typing import Any

import engine_models as em
import pytest
import torch
from torch import nn

import refarch
from refarch.errors import SlotError
from refarch.testing.case import randomise


def _tokens(integration: str = "gated addition", function: str = "HiddenTokens", **fields: Any) -> Any:
    gated = {"gate": {"by": "learned", "activation": "identity", "initial": 0.7}} if integration[0] == "g" else {}
    values: dict[str, Any] = {"form": "tokens", "input_type": "data", "intra": "none", "inter": "dynamic"}
    values |= {"projected": function == "HiddenTokens", **gated, **fields}
    return em.technique(em.module(function, integration, "attention.key_value", **values))


@pytest.mark.parametrize("name", em.FAMILIES)
def test_projected_tokens_are_keys_and_values_by_the_layers_own_projections(name: str) -> None:
    """Concatenated, [P; x] through the projections equals the same keys and values given as they are."""
    one, two, values = em.tiny(name), em.tiny(name), em.batch(name)
    hidden = refarch.attach(one, _tokens("concatenation", "HiddenTokens"), layers=[0])
    given = refarch.attach(two, _tokens("concatenation", "KeyValues"), layers=[0])
    for binding, (_, function) in zip(hidden.bindings, given.functions(), strict=True):
        with torch.no_grad():
            keys, states = binding.keys_and_values(torch.float32)  # type: ignore[union-attr]
            function.keys.copy_(keys)
            function.values.copy_(states)
    torch.testing.assert_close(one(**values).logits, two(**values).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", em.FAMILIES)
def test_a_projection_that_another_adaptation_changes_merges_to_the_same(name: str) -> None:
    model, values = em.tiny(name), em.batch(name)
    line = refarch.attach(model, em.technique(em.module("Narrow", "scaled addition", ("attention.key",))))
    randomise(refarch.attach(model, _tokens(), name="attended"))
    expected = model(**values).logits
    line.merge()
    torch.testing.assert_close(model(**values).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_module_beside_the_sublayer_still_reads_what_the_sublayer_reads(name: str) -> None:
    """GPT-2's one projection is both where the sublayer begins and what the tokens pass through."""
    values = em.batch(name)
    logits = []
    for both in (False, True):
        model = em.tiny(name)
        refarch.attach(model, em.technique(em.module("Mlp", "direct addition", "attention", form="mlp")))
        if both:  # a closed gate: the tokens are computed and add nothing
            closed = {"by": "learned", "activation": "identity", "initial": 0.0}
            refarch.attach(model, _tokens(gate=closed), name="attended")
        logits.append(model(**values).logits)
    assert torch.equal(*logits)


def test_a_convex_gate_that_is_open_leaves_nothing_of_the_base() -> None:
    model, values = em.tiny("bert", "AutoModelForMaskedLM"), em.batch("t5")
    values.pop("labels")
    gate = {"by": "learned", "activation": "identity", "initial": 1.0, "convex": True}
    refarch.attach(model, _tokens(gate=gate))
    before = model(**values).logits
    values["input_ids"][:, 0] = 50  # no position sees another one any more
    after = model(**values).logits
    torch.testing.assert_close(after[:, 1:], before[:, 1:], rtol=0, atol=1e-6)
    assert (after[:, 0] - before[:, 0]).abs().max() > 1e-2


@pytest.mark.parametrize("name", em.FAMILIES)
def test_tokens_before_and_beside_do_not_depend_on_the_order_of_attaching(name: str) -> None:
    values, logits = em.batch(name), []
    for order in (("before", "beside"), ("beside", "before")):
        model = em.tiny(name)
        specs = {"before": _tokens("concatenation", "KeyValues"), "beside": _tokens()}
        for label in order:
            refarch.attach(model, specs[label], name=label)
        logits.append(model(**values).logits)
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)


DROPOUT = {
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "gpt2": ("embd_pdrop", "resid_pdrop", "attn_pdrop"),
    "llama": (),
}


@pytest.mark.parametrize("name", DROPOUT)
def test_dropout_of_attention_leaves_the_added_part_alone(name: str) -> None:
    """Its rate belongs to the base's own attention; an open convex gate shows the added part by itself."""
    model, values = em.tiny(name, **dict.fromkeys(DROPOUT[name], 0.0)), em.batch(name)
    for module in model.modules():
        if type(module).__name__ in ("BertSelfAttention", "GPT2Attention", "LlamaAttention"):
            rate: Any = nn.Dropout(0.5)
            for key in ("dropout", "attn_dropout", "attention_dropout"):
                if hasattr(module, key):
                    setattr(module, key, rate if isinstance(getattr(module, key), nn.Module) else 0.5)
    model.train()
    plain = [model(**values).logits for _ in range(2)]
    assert not torch.equal(*plain)
    gate = {"by": "learned", "activation": "identity", "initial": 1.0, "convex": True}
    refarch.attach(model, _tokens(gate=gate))
    assert torch.equal(model(**values).logits, model(**values).logits)


def test_a_table_without_projections_is_refused() -> None:
    model = em.tiny("bert")
    family = em.family("bert")
    (stack,) = family.stacks
    slots = {name: path for name, path in stack.slots.items() if name != "attention.value"}
    cut = family.model_copy(update={"stacks": (stack.model_copy(update={"slots": slots}),)})
    with pytest.raises(SlotError, match="names no projections"):
        refarch.attach(model, _tokens(), family=cut)
    refarch.attach(model, _tokens("concatenation", "KeyValues"), family=cut)  # which needs none
