"""Examples that share a row: each as if it were alone."""

import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from refarch_instruction_tuning.packing import PackedCollator, check_packing, pack, seen

from refarch import attach
from refarch.errors import UsageError
from refarch.tasks import PairCollator
from refarch.testing import all_tiny, spread

DECODERS = [each for each in all_tiny() if each.auto_class == "AutoModelForCausalLM" and each.kind == "decoder"]
LLAMA = next(each for each in DECODERS if each.family.name == "llama")
COLLATE = PackedCollator(PairCollator(0))
LENGTHS = (5, 9, 3, 7)


def examples(lengths=LENGTHS, seed=0, vocabulary=90):
    chance = random.Random(seed)
    rows = []
    for length in lengths:
        ids = [chance.randrange(3, vocabulary) for _ in range(length)]
        rows.append({"input_ids": ids, "attention_mask": [1] * length, "labels": [-100, -100, *ids[2:]]})
    return rows


def token_losses(model, batch):
    """Of every token that is learnt, in order."""
    labels = batch["labels"][:, 1:]
    with torch.no_grad():
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits[:, :-1]
    return F.cross_entropy(logits.transpose(1, 2).double(), labels, reduction="none")[labels != -100]


def alone(model, row):
    return token_losses(model, {name: torch.tensor([values]) for name, values in row.items()})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(20, 30))
def test_every_example_is_in_one_row_whole(lengths, longest):
    rows = [{"input_ids": [n] * length, "labels": [-n] * length} for n, length in enumerate(lengths)]
    packed = pack(rows, longest)
    found = []
    for row in packed:
        assert (
            sum(row["segments"]) == len(row["input_ids"]) == len(row["labels"]) == len(row["position_ids"]) <= longest
        )
        start = 0
        for length in row["segments"]:
            part = slice(start, start + length)
            assert len(set(row["input_ids"][part])) == 1
            assert row["labels"][part] == [-token for token in row["input_ids"][part]]
            assert row["position_ids"][part] == list(range(length))
            found.append((row["input_ids"][start], length))
            start += length
    assert sorted(found) == list(enumerate(lengths))
    assert len(packed) <= 2 * -(-sum(lengths) // longest)  # no two rows of a best fit are half empty


def test_rows_are_filled():
    sizes = [[row["segments"] for row in pack(examples(lengths), 10)] for lengths in ([6, 6, 4, 4], [9, 1, 5, 5, 10])]
    assert sizes == [[[6, 4], [6, 4]], [[9, 1], [5, 5], [10]]]


def test_tokens_see_what_is_before_them_in_their_own_example():
    mask = seen([[2, 1], [4]], 4)
    assert mask.shape == (2, 1, 4, 4)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert mask[1, 0].int().tolist() == torch.ones(4, 4).tril().int().tolist()


@pytest.mark.parametrize("tiny", DECODERS, ids=lambda tiny: tiny.family.name)
@pytest.mark.parametrize("technique", ["lora", "prefix-tuning"])
def test_an_examples_loss_is_that_which_it_has_alone(tiny, technique):
    """Token by token, in two packed rows of one batch, with trained-like modules attached."""
    model = tiny.model()
    adaptation = attach(model, technique)
    spread(adaptation.tree, seed=2)
    model.eval()
    rows = examples()
    packed = pack(rows, 16)
    assert len(packed) == 2
    collate = PackedCollator(PairCollator(0), check_packing(model, rows, 9))
    found = token_losses(model, collate(packed))
    order = [row for one in packed for row in _members(one, rows)]
    expected = torch.cat([alone(model, row) for row in order])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    mean = model(**collate(packed)).loss.item()
    assert mean == pytest.approx(expected.mean().item(), abs=1e-4)


def _members(packed, rows):
    start = 0
    for length in packed["segments"]:
        yield next(row for row in rows if row["input_ids"] == packed["input_ids"][start : start + length])
        start += length


def test_without_its_mask_or_its_positions_it_would_not_be():
    model, rows = next(each for each in DECODERS if each.family.name == "gpt2").model(), examples()
    (packed,) = pack(rows, 64)
    expected = torch.cat([alone(model, row) for row in _members(packed, rows)])
    batch = COLLATE([packed])
    torch.testing.assert_close(token_losses(model, batch), expected, rtol=1e-4, atol=1e-5)
    plain = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}
    shifted = {name: value for name, value in batch.items() if name != "position_ids"}
    for wrong in (plain, shifted):
        assert (token_losses(model, wrong) - expected).abs().max() > 1e-3


def test_gradients_are_those_of_the_examples_alone():
    tiny, rows = LLAMA, examples()
    packed = pack(rows, 16)
    gradients = []
    for batches in ([COLLATE(packed)], [{n: torch.tensor([v]) for n, v in row.items()} for row in rows]):
        model = tiny.model().eval()
        adaptation = attach(model, "lora")
        spread(adaptation.tree, seed=2)
        for batch in batches:
            labelled = (batch["labels"][:, 1:] != -100).sum()
            (model(**batch).loss * labelled).backward()
        gradients.append([p.grad for p in adaptation.tree.parameters() if p.grad is not None])
    assert len(gradients[0]) > 2
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_mask_is_of_the_kind_that_the_attention_takes(kind):
    rows = examples()
    for implementation, expected in (("sdpa", torch.bool), ("eager", kind)):
        model = LLAMA.model().to(kind)
        model.set_attn_implementation(implementation)
        assert check_packing(model, rows, 9) == expected


def test_a_model_that_lets_examples_see_each_other_is_refused(monkeypatch):
    from refarch_instruction_tuning import packing

    model = LLAMA.model().train()
    monkeypatch.setattr(packing, "seen", lambda _, tokens: torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril())
    with pytest.raises(UsageError, match=r"cannot keep examples of one row apart: its outputs differ[\s\S]*packing"):
        check_packing(model, examples(), 9)
    assert model.training


@pytest.mark.parametrize("technique", ["prompt-tuning"])
def test_a_technique_that_needs_another_mask_is_refused(technique):
    model = LLAMA.model()
    attach(model, technique)
    with pytest.raises(UsageError, match="apart: tokens at the inputs need a mask"):
        check_packing(model, examples(), 9)


def test_a_window_shorter_than_an_example_is_refused():
    model = LLAMA.model()
    model.config.sliding_window = 8
    with pytest.raises(UsageError, match="sees 8 tokens back at most, and examples have up to 9"):
        check_packing(model, examples(), 9)
    check_packing(model, examples(), 8)


def test_one_example_is_enough_to_try(monkeypatch):
    check_packing(LLAMA.model(), examples([4]), 4)
