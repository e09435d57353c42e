"""Tokens at the inputs equal a plain run on concatenated embeddings."""

import copy
from typing import Any

import engine_models as em
import pytest
import torch
from torch import Tensor

import refarch

LENGTH = 3


def _attached(model: Any) -> tuple[refarch.Adaptation, Tensor]:
    adaptation = refarch.attach(model, em.technique(em.module("Tokens", "concatenation", "inputs")))
    return adaptation, next(iter(adaptation.parameters()))


def _joined(plain: Any, tokens: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the plain model gets to do the same."""
    embedded = plain.get_input_embeddings()(values["input_ids"])
    mask = values["attention_mask"]
    return {
        "inputs_embeds": torch.cat([tokens.expand(len(mask), -1, -1), embedded], dim=1),
        "attention_mask": torch.cat([mask.new_ones(len(mask), LENGTH), mask], dim=1),
    }


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_decoder_logits_loss_and_hidden_states_line_up(padding: str, name: str) -> None:
    model, values = em.tiny(name), em.batch(name)
    labels = values["labels"]
    if padding == "none":
        values["attention_mask"], labels = torch.ones_like(values["attention_mask"]), values["input_ids"]
    if padding == "left":
        values = em.left_padded(values)
        labels = values["input_ids"].masked_fill(values["attention_mask"] == 0, -100)
    plain = copy.deepcopy(model)
    _, tokens = _attached(model)
    given = {key: values[key] for key in ("input_ids", "attention_mask")}
    found = model(**given, labels=labels, output_hidden_states=True)
    wide = torch.cat([labels.new_full((len(labels), LENGTH), -100), labels], dim=1)
    wanted = plain(**_joined(plain, tokens, values), labels=wide, output_hidden_states=True)
    mask = values["attention_mask"].bool()
    torch.testing.assert_close(found.logits[mask], wanted.logits[:, LENGTH:][mask], rtol=1e-5, atol=1e-5)
    assert found.logits.shape[1] == mask.shape[1]
    # The plain loss also counts the step from the last token of the prompt to the first of the text; ours cannot, since
    # the model's own loss sees the text alone. Without it they are one.
    first = torch.nn.functional.cross_entropy(wanted.logits[:, LENGTH - 1], labels[:, 0], reduction="none")
    counted = wide[:, 1:] != -100
    total = wanted.loss * counted.sum() - first[labels[:, 0] != -100].sum()
    torch.testing.assert_close(found.loss, total / (labels[:, 1:] != -100).sum(), rtol=1e-5, atol=1e-5)
    for a, b in zip(found.hidden_states, wanted.hidden_states, strict=True):
        torch.testing.assert_close(a[mask], b[:, LENGTH:][mask], rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.logits[mask].square().mean(), tokens)
    (other,) = torch.autograd.grad(wanted.logits[:, LENGTH:][mask].square().mean(), tokens)
    torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", em.FAMILIES)
def test_tuples_are_cut_as_well(name: str) -> None:
    model, values = em.tiny(name), em.batch(name)
    _attached(model)
    base = model.base_model if name != "t5" else model.encoder
    values = {key: values[key] for key in ("input_ids", "attention_mask")}
    for module, length in ((base, 6), (model, 6)):
        if name == "t5":
            continue
        out = module(**values, output_hidden_states=True, return_dict=False)
        states = next(
            item for item in out if isinstance(item, tuple) and isinstance(item[0], Tensor) and item[0].ndim == 3
        )
        assert {state.shape[1] for state in states} == {length}
        if module is base:
            assert out[0].shape[1] == length


def test_bert_with_pooler_token_types_and_positions() -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    plain = copy.deepcopy(model)
    _, tokens = _attached(model)
    types = torch.zeros_like(values["input_ids"])
    types[:, 3:] = 1
    found = model(**values, token_type_ids=types, output_hidden_states=True)
    wide = torch.cat([types.new_zeros(2, LENGTH), types], dim=1)
    joined = plain.bert(**_joined(plain, tokens, values), token_type_ids=wide).last_hidden_state
    pooled = torch.tanh(plain.bert.pooler.dense(joined[:, LENGTH]))  # the text's own first token
    torch.testing.assert_close(found.logits, plain.classifier(pooled), rtol=1e-5, atol=1e-5)
    assert found.hidden_states[-1].shape[1] == 6
    loss = torch.nn.functional.cross_entropy(plain.classifier(pooled), values["labels"])
    torch.testing.assert_close(found.loss, loss, rtol=1e-5, atol=1e-5)
    positions = torch.arange(6)[None].expand(2, -1)
    again = model(**values, token_type_ids=types, position_ids=positions)
    torch.testing.assert_close(again.logits, found.logits, rtol=1e-6, atol=1e-6)


def test_bert_masked_language_model_lines_up() -> None:
    model = em.tiny("bert", "AutoModelForMaskedLM")
    values = {**em.batch("bert"), "labels": em.batch("bert")["input_ids"]}
    plain = copy.deepcopy(model)
    _, tokens = _attached(model)
    found = model(**values)
    wanted = plain(**_joined(plain, tokens, values)).logits[:, LENGTH:]
    torch.testing.assert_close(found.logits[values["attention_mask"].bool()], wanted[values["attention_mask"].bool()])
    torch.testing.assert_close(
        found.loss, torch.nn.functional.cross_entropy(found.logits.view(-1, 99), values["labels"].view(-1))
    )


def test_encoder_decoder_keeps_the_tokens_for_the_decoder() -> None:
    model, values = em.tiny("t5"), em.batch("t5")
    plain = copy.deepcopy(model)
    _, tokens = _attached(model)
    found = model(**values)
    wanted = plain(**_joined(plain, tokens, values), labels=values["labels"])
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-5, atol=1e-5)
    assert found.encoder_last_hidden_state.shape[1] == 6 + LENGTH
    without = {key: value for key, value in values.items() if key != "attention_mask"}
    torch.testing.assert_close(
        model(**without).logits[0], found.logits[0], rtol=1e-5, atol=1e-5
    )  # the first row has no padding, so the mask says nothing about it


@pytest.mark.parametrize("name", em.GENERATIVE)
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_equals_generation_from_embeddings(beams: int, name: str) -> None:
    model = em.tiny(name)
    values = em.batch(name) if name == "t5" else em.left_padded(em.batch(name))
    plain = copy.deepcopy(model)
    _, tokens = _attached(model)
    options = {"num_beams": beams}
    sequences, scores = em.scores(model, values, **options)
    with torch.no_grad():
        joined = _joined(plain, tokens, values)
        out = plain.generate(
            **joined, max_new_tokens=8, min_new_tokens=8, do_sample=False, num_beams=beams,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
    assert torch.equal(sequences[:, -8:], out.sequences[:, -8:])
    torch.testing.assert_close(scores, torch.stack(out.scores).nan_to_num(neginf=-1e4), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", em.FAMILIES)
def test_given_embeddings_are_extended_too(name: str) -> None:
    model, values = em.tiny(name), em.batch(name)
    _attached(model)
    by_ids = model(**values).logits
    embedded = model.get_input_embeddings()(values["input_ids"])
    others = {key: value for key, value in values.items() if key != "input_ids"}
    torch.testing.assert_close(model(**others, inputs_embeds=embedded).logits, by_ids, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_classification_by_a_decoder_reads_the_last_token_of_the_text(name: str) -> None:
    model = em.tiny(name, "AutoModelForSequenceClassification")
    values = em.batch(name)
    values["labels"] = torch.tensor([0, 1])
    values["input_ids"] = values["input_ids"].masked_fill(values["attention_mask"] == 0, 0)
    plain = copy.deepcopy(model)
    _, tokens = _attached(model)
    states = plain.base_model(**_joined(plain.base_model, tokens, values)).last_hidden_state
    last = torch.stack([states[row, LENGTH + int(values["attention_mask"][row].sum()) - 1] for row in range(2)])
    torch.testing.assert_close(model(**values).logits, plain.score(last), rtol=1e-5, atol=1e-5)


def test_a_mask_that_cannot_be_extended_is_refused() -> None:
    model, values = em.tiny("llama"), em.batch("llama")
    _attached(model)
    square = torch.zeros(2, 1, 6, 6)
    with pytest.raises(refarch.RefarchError, match="4 dimensions"):
        model(input_ids=values["input_ids"], attention_mask=square)
