"""A gate at key_value, learned or computed from what the attention reads, equals the same thing worked out plainly."""

import copy
from typing import Any

import engine_models as em
import pytest
import torch
from torch import Tensor

import refarch
from refarch.architecture import Gate
from refarch.errors import SlotError
from refarch.testing.case import randomise

QUERIES = {
    "bert": "bert.encoder.layer.1.attention.self.query",
    "gpt2": "transformer.h.1.attn.c_attn",
    "llama": "model.layers.1.self_attn.q_proj",
    "t5": "decoder.block.1.layer.1.EncDecAttention.q",
}
"""What reads the same as the attention whose keys and values are gated."""


def _prefix(by: str | None, integration: str = "concatenation", **fields: Any) -> Any:
    gate = {} if by is None else {"gate": Gate(by=by, initial=0.3, **fields.pop("gate", {}))}  # type: ignore[arg-type]
    values = {"form": "tokens", "input_type": "data", "intra": "none", "inter": "dynamic", **gate, **fields}
    return em.technique(em.module("KeyValues", integration, "attention.key_value", **values), name="prefix")


def _where(name: str) -> dict[str, Any]:
    slots = "cross_attention.key_value" if name == "t5" else "attention.key_value"
    return {"slots": slots, "layers": {"indices": [1], "stacks": ["encoder" if name == "bert" else "decoder"]}}


def _read(plain: Any, name: str, values: dict[str, Tensor]) -> Tensor:
    """What the query projection gets, [b, t, d]."""
    found: list[Tensor] = []
    module = plain.get_submodule(QUERIES[name])
    handle = module.register_forward_pre_hook(lambda m, args: found.append(args[0]))
    plain(**values)
    handle.remove()
    return found[0]


def _attached(name: str, by: str, **fields: Any) -> tuple[Any, Any, Any]:
    """A model with a gated prefix, an untouched copy, and the insertion."""
    model = em.tiny(name, "AutoModelForMaskedLM" if name == "bert" else None)
    plain = copy.deepcopy(model)
    adaptation = refarch.attach(model, _prefix(by, **fields), **_where(name))
    randomise(adaptation, scale=0.5)
    return model, plain, adaptation.insertions[0]


def _inputs(name: str, padding: str) -> dict[str, Tensor]:
    values = em.batch(name)
    labels = values.pop("labels")
    if name == "t5":
        return {**values, "decoder_input_ids": labels}
    return em.left_padded(values) if padding == "left" else values


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("by", ["example", "learned"])
@pytest.mark.parametrize("name", em.FAMILIES)
def test_keys_and_values_are_multiplied_by_the_gate(name: str, by: str, padding: str) -> None:
    """Each example equals the model with a plain prefix of its own: the keys and values, times its gate."""
    model, plain, insertion = _attached(name, by)
    values = _inputs(name, padding)
    found = model(**values).logits
    read = _read(plain, name, values)
    real = torch.ones(read.shape[:2]) if name == "t5" else values["attention_mask"]  # all that T5 decodes is real
    gates = []
    for row in range(2):
        states = read[row][real[row].bool()]
        each = (
            [torch.sigmoid(state @ insertion.gate.weight + insertion.gate.bias) for state in states]
            if by[0] == "e"
            else []
        )
        g = torch.stack(each).mean() if each else torch.sigmoid(insertion.gate.bias)
        other = copy.deepcopy(plain)
        alone = refarch.attach(other, _prefix(None), **_where(name))
        with torch.no_grad():
            for parameter, own in zip(alone.parameters(), insertion.function.parameters(), strict=True):
                parameter.copy_(g * own)
        one = other(**{key: value[row : row + 1] for key, value in values.items()}).logits[0]
        torch.testing.assert_close(found[row][real[row].bool()], one[real[row].bool()], rtol=1e-4, atol=1e-5)
        gates.append(float(g.detach()))
    assert (gates[0] != gates[1]) == (by == "example")


@pytest.mark.parametrize("by", ["token", "example"])
@pytest.mark.parametrize("name", em.FAMILIES)
def test_attention_beside_is_added_by_a_gate_of_what_it_reads(name: str, by: str) -> None:
    """A gate that is the same for all, by its bias, equals a learned one; one that reads something differs."""
    values, logits = _inputs(name, "right"), {}
    for kind, reads in ((by, False), ("learned", False), (by, True)):
        model, _, insertion = _attached(name, kind, integration="gated addition")
        with torch.no_grad():
            if insertion.gate.weight is not None:
                insertion.gate.weight.normal_() if reads else insertion.gate.weight.zero_()
            insertion.gate.bias.fill_(0.4)
            for parameter, source in zip(insertion.function.parameters(), (1, 2), strict=True):
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(source)))
        logits[kind, reads] = model(**values).logits
    torch.testing.assert_close(logits[by, False], logits["learned", False], rtol=1e-5, atol=1e-5)
    assert (logits[by, True] - logits[by, False]).abs().max() > 1e-3


def test_gates_get_gradients_and_leave_nothing_behind() -> None:
    for name in em.FAMILIES:
        model = em.tiny(name)
        expected = model(**em.batch(name)).logits
        before = em.snapshot(model)
        adaptation = refarch.attach(model, _prefix("example"), **_where(name))
        model(**em.batch(name)).loss.backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adaptation.parameters())
        adaptation.detach()
        em.assert_restored(before, model)
        assert torch.equal(model(**em.batch(name)).logits, expected)


def test_a_table_without_a_query_projection_has_nothing_for_a_gate_to_read() -> None:
    family = em.family("bert")
    (stack,) = family.stacks
    slots = {name: path for name, path in stack.slots.items() if name != "attention.query"}
    cut = family.model_copy(update={"stacks": (stack.model_copy(update={"slots": slots}),)})
    with pytest.raises(SlotError, match="names no query projection"):
        refarch.attach(em.tiny("bert"), _prefix("example"), family=cut)
    refarch.attach(em.tiny("bert"), _prefix("learned"), family=cut)
