"""What a stack's call says about its tokens: gates by example under padding, prompts, caches and second runs."""

import copy
from typing import Any

import engine_models as em
import pytest
import torch
from torch import Tensor

import refarch
from refarch.architecture import Gate
from refarch.errors import CompositionError, SpecError
from refarch.testing.case import randomise
from refarch.testing.checks.generation import ahead_reason

EXAMPLE = Gate(by="example", initial=0.3)
SEED = 5


def _gated(*slots: str, **fields: Any) -> Any:
    values = {"form": "mlp", "insertion": "sequential", "gate": EXAMPLE, **fields}
    return em.technique(em.module("Mlp", "gated addition", slots or ("ffn.down",), **values), name="gated")


def _prompt() -> Any:
    return em.technique(em.module("Tokens", "concatenation", "inputs"), name="prompt")


def _attach(model: Any, spec: Any, **choice: Any) -> refarch.Adaptation:
    adaptation = refarch.attach(model, spec, **choice)
    randomise(adaptation, SEED, 0.3)
    return adaptation


def _inputs(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: values[key] for key in ("input_ids", "attention_mask")}


# padding -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("insertion", ["sequential", "parallel"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "opt"])
def test_padding_does_not_change_a_gate_by_example(name: str, insertion: str, side: str) -> None:
    """OPT's feed-forward layers have the tokens of all examples in one row."""
    if name == "bert" and side == "left":
        pytest.skip("BERT's positions count padding on the left")
    model, values = em.tiny(name, "AutoModelForMaskedLM" if name == "bert" else None), _inputs(em.batch(name))
    slots = ("ffn", "ffn.down") if insertion == "parallel" else ("ffn.down", "attention.output", "layer")
    _attach(model, _gated(*slots, insertion=insertion))
    alone = model(input_ids=values["input_ids"][1:, :4]).logits[0]
    if side == "right":
        found = model(**values).logits[1, :4]
    else:
        values = em.left_padded(values)
        places = {} if name == "opt" else {"position_ids": (values["attention_mask"].cumsum(-1) - 1).clamp(min=0)}
        found = model(**values, **places).logits[1, 2:]
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_each_stack_has_its_own_mask() -> None:
    """T5's encoder and decoder differ in padding; cross-attention's keys are of the encoder's tokens."""
    model, values = em.tiny("t5"), _inputs(em.batch("t5"))
    _attach(model, _gated("ffn.down", "cross_attention.value?", "cross_attention.output?"))
    decoded = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    both = model(**values, decoder_input_ids=decoded, decoder_attention_mask=(decoded > 0).long()).logits
    alone = model(input_ids=values["input_ids"][1:, :4], decoder_input_ids=decoded[1:, :2]).logits
    torch.testing.assert_close(both[1, :2], alone[0], rtol=1e-4, atol=1e-5)


# prompts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", em.FAMILIES)
def test_tokens_put_in_front_are_tokens_in_whichever_order(name: str) -> None:
    """Prompt and gate in either order equal the gate alone on embeddings that begin with the prompt."""
    values, logits = em.batch(name), []
    values = {key: value for key, value in values.items() if key != "labels" or name == "t5"}
    slots = ("ffn.down", "cross_attention.value?")
    for order in (("prompt", "gated"), ("gated", "prompt")):
        model = em.tiny(name, "AutoModelForMaskedLM" if name == "bert" else None)
        plain = copy.deepcopy(model)
        specs = {"prompt": _prompt(), "gated": _gated(*slots)}
        made = {label: _attach(model, specs[label]) for label in order}
        logits.append(model(**values).logits)
    torch.testing.assert_close(*logits, rtol=0, atol=0)
    _attach(plain, _gated(*slots))
    tokens = next(made["prompt"].parameters())
    mask = values.pop("attention_mask")
    embedded = plain.get_input_embeddings()(values.pop("input_ids"))
    values["inputs_embeds"] = torch.cat([tokens.expand(len(mask), -1, -1), embedded], dim=1)
    values["attention_mask"] = torch.cat([mask.new_ones(len(mask), len(tokens)), mask], dim=1)
    wanted = plain(**values).logits
    wanted = wanted if name == "t5" else wanted[:, len(tokens) :][mask.bool()]
    found = logits[0] if name == "t5" else logits[0][mask.bool()]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


# second runs, copies, calls ------------------------------------------------------------------------------------------


def _two_calls(model: Any, name: str) -> None:
    """One loss from two calls that differ in their masks, of equal shape; gradients by one backward pass."""
    one, two = em.batch(name), em.batch(name, seed=4)
    two["attention_mask"] = torch.ones_like(two["attention_mask"])
    two["attention_mask"][0, 3:] = 0
    model.zero_grad()
    (model(**one).loss + 2 * model(**two).loss).backward()


@pytest.mark.parametrize("name", em.FAMILIES)
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_layer_that_runs_again_has_its_own_call(reentrant: bool, name: str) -> None:
    model = em.tiny(name, **({"dropout_rate": 0.0} if name == "t5" else {}))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    adaptation = _attach(model, _gated("ffn.down", "layer", "attention.output"))
    model.train()
    model.config.use_cache = False
    _two_calls(model, name)
    plain = {key: p.grad.clone() for key, p in adaptation.named_parameters() if p.grad is not None}
    assert len(plain) == len(dict(adaptation.named_parameters()))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    given = {path: vars(each).get("_gradient_checkpointing_func") for path, each in model.named_modules()}
    _two_calls(model, name)
    assert given == {path: vars(each).get("_gradient_checkpointing_func") for path, each in model.named_modules()}
    for key, parameter in adaptation.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", em.FAMILIES)
def test_a_copy_has_hooks_of_its_own_and_detaching_leaves_nothing(name: str) -> None:
    model, values = em.tiny(name), em.batch(name)
    expected, before = model(**values).logits, em.snapshot(model)
    first = _attach(model, _gated("ffn.down"))
    second = _attach(model, _gated("layer"), name="second")
    found = model(**values).logits
    clone = copy.deepcopy(model)
    with torch.no_grad():
        other = clone(**{**values, "attention_mask": torch.ones_like(values["attention_mask"])}).logits
    assert not torch.allclose(other[1], found[1], atol=1e-4)  # the mask of this call, not of the last
    assert torch.equal(model(**values).logits, found)
    for adaptation in refarch.adaptations(clone):
        adaptation.detach()
    assert torch.equal(clone(**values).logits, expected)
    assert not [path for path, each in clone.named_modules() if "_refarch_context" in each.__dict__]
    assert torch.equal(model(**values).logits, found)
    first.detach()
    assert not torch.equal(model(**values).logits, expected)
    second.detach()
    em.assert_restored(before, model)


def test_a_call_that_fails_leaves_no_context_behind() -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    adaptation = _attach(model, _gated("layer"))
    found = model(**values).logits
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[5, 10**6]]))
    assert torch.equal(model(**values).logits, found)
    layer = model.bert.encoder.layer[0]
    with pytest.raises(CompositionError, match="within a call of the model"):
        layer(torch.zeros(2, 6, 32))
    with adaptation.disabled():
        layer(torch.zeros(2, 6, 32))


def test_only_a_mask_of_tokens_says_which_are_real() -> None:
    model, values = em.tiny("llama"), em.batch("llama")
    adaptation = _attach(model, _gated())
    square = torch.zeros(2, 1, 6, 6)
    with pytest.raises(CompositionError, match="4 dimensions"):
        model(input_ids=values["input_ids"], attention_mask=square)
    with adaptation.disabled():
        model(input_ids=values["input_ids"], attention_mask=square)
    with pytest.raises(SpecError, match="known within a stack"):
        _attach(model, _gated(), name="other", slots="embedding")


def test_whose_tokens_a_gate_reads_decides_whether_a_cache_can_hold_it() -> None:
    model = em.tiny("t5")
    adaptation = _attach(model, _gated("ffn.down", "cross_attention.value?", "cross_attention.output?"))
    told = {item.site.address: bool(ahead_reason(item.spec, item.site)) for item in adaptation.insertions}
    assert told["decoder.0.ffn.down"] and told["decoder.0.cross_attention.output"]
    assert not told["encoder.0.ffn.down"] and not told["decoder.0.cross_attention.value"]


def test_a_gate_of_the_encoders_tokens_generates_with_a_cache() -> None:
    model, values = em.tiny("t5"), em.batch("t5")
    _attach(model, _gated("cross_attention.value?"))
    (tokens, scores), (others, plain) = em.scores(model, values), em.scores(model, values, use_cache=False)
    assert torch.equal(tokens, others)
    torch.testing.assert_close(scores, plain, rtol=1e-4, atol=1e-4)
