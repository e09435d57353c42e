"""Asking a model in batches gives what asking it row by row does."""

import pytest
import torch
import torch.nn.functional as F
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

from refarch.tasks.evaluation import batches, collect, generate, log_likelihoods, mean_loss, tokens
from refarch.testing.models import all_tiny
from refarch.testing.tokenizer import tiny_tokenizer

LENGTHS = (3, 9, 1, 6, 6)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "[SEP]"
    return tokenizer


def built(family, auto_class, tokenizer):
    tiny = next(t for t in all_tiny([family]) if t.auto_class == auto_class)
    torch.manual_seed(0)
    model = tiny.build(tiny.config(vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def prompts(tokenizer):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(5, len(tokenizer), (length,), generator=generator).tolist() for length in LENGTHS]


@pytest.mark.parametrize("family, auto_class", [("gpt2", "AutoModelForCausalLM"), ("t5", "AutoModelForSeq2SeqLM")])
@torch.no_grad()
def test_likelihoods_are_those_of_the_plain_sum(family, auto_class, tokenizer):
    model, contexts = built(family, auto_class, tokenizer), prompts(tokenizer)
    pairs = [(context, contexts[i - 1]) for i, context in enumerate(contexts)]
    found = log_likelihoods(model, pairs, 2, pad=0)
    for (context, continuation), likelihood in zip(pairs, found, strict=True):
        if family == "gpt2":
            logits = model(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1]
        else:
            logits = model(input_ids=torch.tensor([context]), labels=torch.tensor([continuation])).logits[0]
        expected = -F.cross_entropy(logits, torch.tensor(continuation), reduction="sum")
        assert likelihood.total == pytest.approx(float(expected), abs=1e-4)
        assert likelihood.tokens == len(continuation)
        assert likelihood.greedy == (logits.argmax(dim=-1).tolist() == continuation)


@torch.no_grad()
def test_the_likeliest_continuation_is_greedy_and_a_whole_window_can_be_read(tokenizer):
    model = built("gpt2", "AutoModelForCausalLM", tokenizer)
    context, length = prompts(tokenizer)[1], model.config.n_positions
    own = model.generate(
        torch.tensor([context]), max_length=length, min_length=length, do_sample=False, pad_token_id=0
    )[0].tolist()
    other = [*own[len(context) :], 7]  # all positions are read, and one more token is predicted
    other[-1] = int(model(torch.tensor([own])).logits[0, -1].argmax())
    changed = [*other[:3], (other[3] + 1) % len(tokenizer), *other[4:]]
    found = log_likelihoods(model, [(context, other), (context, changed), (context, other[:1])], 3, pad=0)
    assert [likelihood.greedy for likelihood in found] == [True, False, True]
    assert [likelihood.tokens for likelihood in found] == [len(other), len(other), 1]


def test_a_likelihood_needs_tokens(tokenizer):
    model = built("gpt2", "AutoModelForCausalLM", tokenizer)
    with pytest.raises(ValueError, match="continuation of one token"):
        log_likelihoods(model, [([5], [])], 2, pad=0)
    with pytest.raises(ValueError, match="a decoder a context"):
        log_likelihoods(model, [([], [5])], 2, pad=0)


@pytest.mark.parametrize("family, auto_class", [("llama", "AutoModelForCausalLM"), ("t5", "AutoModelForSeq2SeqLM")])
@torch.no_grad()
def test_generation_in_batches_is_generation_alone(family, auto_class, tokenizer):
    model, contexts = built(family, auto_class, tokenizer), prompts(tokenizer)
    together = generate(model, tokenizer, contexts, 3, max_new_tokens=6)
    alone = [generate(model, tokenizer, [context], 1, max_new_tokens=6)[0] for context in contexts]
    assert together == alone
    assert any(together)


@torch.no_grad()
def test_a_text_ends_where_the_model_or_its_training_says(tokenizer):
    """The model's own end tokens (a chat model has several) and the tokenizer's, with which targets are trained."""
    model, (context, *_) = built("gpt2", "AutoModelForCausalLM", tokenizer), prompts(tokenizer)
    whole = generate(model, tokenizer, [context], 1, max_new_tokens=8, eos_token_id=None)[0]
    first = tokenizer.encode(whole, add_special_tokens=False)[0]
    other = tiny_tokenizer()
    other.eos_token = tokenizer.convert_ids_to_tokens(first)
    for own, asked in (([first, 7], tokenizer), (7, other), (None, other)):
        model.generation_config.eos_token_id = own
        written = generate(model, asked, [context], 1, max_new_tokens=8)[0]
        assert tokenizer.encode(written, add_special_tokens=False) == [first]
    assert len(whole) > 1


def test_a_row_of_several_sequences_is_as_long_as_the_longest():
    rows = [{"input_ids": [[1] * 2, [1] * 9]}, {"input_ids": [1] * 12}, {"input_ids": [[1] * 3, [1] * 4, [1]]}]
    assert [tokens(row) for row in rows] == [9, 12, 4]
    order = [chosen for chosen, _ in batches(rows, lambda given: {"n": len(given)}, 2, torch.device("cpu"))]
    assert order == [[1, 0], [2]]


@pytest.mark.parametrize(
    "family, auto_class",
    [("gpt2", "AutoModelForCausalLM"), ("t5", "AutoModelForSeq2SeqLM"), ("bert", "AutoModelForMaskedLM")],
)
@torch.no_grad()
def test_the_loss_is_the_mean_over_labelled_tokens(family, auto_class, tokenizer):
    model, contexts = built(family, auto_class, tokenizer), prompts(tokenizer)
    # half of the labels are left out, and the first is one: a decoder does not predict it
    rows = [
        {
            "input_ids": ids,
            "attention_mask": [1] * len(ids),
            "labels": [i if n % 2 == 0 else -100 for n, i in enumerate(ids)],
        }
        for ids in contexts
    ]
    losses, count = 0.0, 0
    for row in rows:
        labels = torch.tensor([row["labels"]])
        logits = model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).logits
        if family == "gpt2":
            logits, labels = logits[:, :-1], labels[:, 1:]
        losses += float(F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
        count += int((labels != -100).sum())
    collator = DataCollatorForTokenClassification(tokenizer)
    assert mean_loss(model, rows, collator, 2) == pytest.approx(losses / count, rel=1e-4)


@torch.no_grad()
def test_outputs_come_in_the_order_of_the_rows(tokenizer):
    model, contexts = built("bert", "AutoModelForSequenceClassification", tokenizer), prompts(tokenizer)
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in contexts]
    found = collect(model, rows, DataCollatorWithPadding(tokenizer), 2, ["logits"])["logits"]
    for ids, logits in zip(contexts, found, strict=True):
        torch.testing.assert_close(logits, model(torch.tensor([ids])).logits[0], atol=1e-5, rtol=1e-4)
