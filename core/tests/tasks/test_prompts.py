"""Prompts and targets as features: what each token is, where the loss is, and what is cut."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from refarch import TEXT_FORMULATIONS
from refarch.errors import DataError, UsageError
from refarch.tasks.prompts import (
    TEXT_KINDS,
    PairCollator,
    check_template,
    encode_pairs,
    end_token,
    fill,
    pair_collator,
    pair_of,
    prompt_room,
)
from refarch.testing.models import all_tiny

TEXT = ["question: where is the cat? answer: on the mat", "a dog ran to the big house. summary: dog runs"] * 3
PROMPT, TARGET = "where is the cat? answer: ", "on the mat"


def trained(template=None, bos=False, **special):
    """A byte-level BPE like GPT-2's, with such special tokens as the template says."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXT, trainer)
    if template:
        core.post_processor = processors.TemplateProcessing(template, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=core, **{"eos_token": "</s>", "pad_token": "<pad>", **special})


def encoded(tokenizer, prompt, target, *lengths, **settings):
    """The features of one pair."""
    return encode_pairs(tokenizer, [prompt], [target], *lengths, **settings)[0]


GPT, LLAMA, T5 = trained(), trained("<s> $A", bos_token="<s>"), trained("$A </s>")
BART = trained("<s> $A </s>", bos_token="<s>")


def test_each_text_formulation_has_its_kind():
    assert {way.name: way.kinds for way in TEXT_FORMULATIONS} == {name: (kind,) for name, kind in TEXT_KINDS.items()}


@pytest.mark.parametrize("tokenizer", [GPT, LLAMA])
def test_a_decoder_reads_prompt_and_target_and_learns_the_target_and_its_end(tokenizer):
    row = encoded(tokenizer, PROMPT, TARGET, "decoder", 64)
    prompt = tokenizer(PROMPT.rstrip())["input_ids"]
    target = tokenizer.encode(" " + TARGET, add_special_tokens=False)
    assert row["input_ids"] == [*prompt, *target, 2]
    assert row["labels"] == [-100] * len(prompt) + [*target, 2]
    assert row["attention_mask"] == [1] * len(row["input_ids"])
    assert pair_of(row, "decoder") == (prompt, [*target, 2])
    assert tokenizer.decode(row["input_ids"], skip_special_tokens=True) == PROMPT + TARGET


@pytest.mark.parametrize("tokenizer", [T5, BART])
def test_an_encoder_decoder_reads_the_prompt_and_writes_the_target(tokenizer):
    row = encoded(tokenizer, PROMPT, TARGET, "encoder-decoder", 64)
    assert row["input_ids"] == tokenizer(PROMPT)["input_ids"]
    assert row["labels"] == tokenizer(text_target=TARGET)["input_ids"]
    assert row["labels"][-1] == 2
    assert pair_of(row, "encoder-decoder") == (row["input_ids"], row["labels"])


@pytest.mark.parametrize("tokenizer", [GPT, LLAMA])
def test_a_prompt_is_the_same_whatever_its_target(tokenizer):
    """Also where the tokenizer joins its end with the target's beginning: 't' and 'he' are 'the' in one text."""
    for prompt in ("answer: t", "answer:", "answer: ", "where  ", "answer:\n"):
        alone = tokenizer(prompt.rstrip(" "))["input_ids"]
        for target in ("he mat", "on", "", " on"):
            row = encoded(tokenizer, prompt, target, "decoder", 64)
            assert pair_of(row, "decoder").prompt == alone
            assert tokenizer.decode(row["input_ids"], skip_special_tokens=True) == prompt + target
            assert row["labels"][-1] == 2
    joined = tokenizer.encode("answer: the mat", add_special_tokens=False)
    assert encoded(tokenizer, "answer: t", "he mat", "decoder", 64)["input_ids"][-len(joined) - 1 : -1] != joined


def test_no_end_token_and_no_special_ones():
    row = encoded(LLAMA, "<s>" + PROMPT, TARGET, "decoder", 64, special=False, end=False)
    assert row["input_ids"] == LLAMA("<s>" + PROMPT + TARGET, add_special_tokens=False)["input_ids"]
    assert encoded(T5, PROMPT, TARGET, "encoder-decoder", 64, end=False)["labels"][-1] != 2
    assert encoded(T5, PROMPT, TARGET, "encoder-decoder", 64, special=False)["input_ids"][-1] != 2


def test_an_empty_prompt_starts_from_a_special_token():
    assert pair_of(encoded(GPT, "", TARGET, "decoder", 64), "decoder").prompt == [2]
    assert pair_of(encoded(LLAMA, "", TARGET, "decoder", 64), "decoder").prompt == [1]


def test_long_prompts_and_targets_are_cut_and_the_log_says_how_many(caplog):
    words = " ".join(f"w{i}" for i in range(40))
    whole = LLAMA(words)["input_ids"]
    with caplog.at_level("INFO"):
        rows = encode_pairs(LLAMA, [words, "a"], [words, "b"], "decoder", 20, 8, source="train.csv")
    assert "train.csv: 1 of 2 prompts were cut to fit 20 tokens" in caplog.text
    assert "train.csv: 1 of 2 targets were cut to fit 8 tokens" in caplog.text
    prompt, target = pair_of(rows[0], "decoder")
    assert prompt == [1, *whole[-11:]]  # 20 - 8 for the target - 1 for <s>
    assert len(rows[0]["input_ids"]) == 20
    assert target[-1] == 2
    assert target[:-1] == LLAMA.encode(words + words, add_special_tokens=False)[len(whole) - 1 :][:7]
    right = pair_of(encoded(LLAMA, words, "b", "decoder", 20, 8, cut="right"), "decoder")
    assert right.prompt == whole[:12]
    row = encoded(T5, words, words, "encoder-decoder", 20, 8)
    assert row["input_ids"] == [*T5(words)["input_ids"][:19], 2]
    assert row["labels"] == [*T5(words)["input_ids"][:7], 2]


def test_a_decoders_prompt_has_the_same_room_whatever_its_target():
    words = " ".join(f"w{i}" for i in range(40))
    rows = encode_pairs(GPT, [words] * 3, ["", "on the mat", words], "decoder", 24, 6)
    assert len({tuple(pair_of(row, "decoder").prompt) for row in rows}) == 1
    whole = encoded(GPT, words, "on the mat", "decoder", 24)
    assert len(whole["input_ids"]) == 24  # without max_target the prompt gets all that the target leaves


def test_the_tokenizers_own_limit_counts():
    short = trained(model_max_length=10)
    assert len(encoded(short, TEXT[0], "on", "decoder", 64)["input_ids"]) == 10


def test_no_room_and_no_end_are_errors():
    with pytest.raises(UsageError, match=r"8 tokens leave no room[\s\S]*max_length"):
        encoded(GPT, PROMPT, TARGET, "decoder", 8, 8)
    with pytest.raises(DataError, match=r"no end-of-text token[\s\S]*eos_token"):
        encoded(trained(eos_token=None), PROMPT, TARGET, "decoder", 64)
    assert end_token(trained(eos_token=None, sep_token="<s>")) == 1
    assert encode_pairs(GPT, [], [], "decoder", 8) == []


@pytest.mark.parametrize("left", [False, True])
def test_batches_are_padded_alike_on_either_side(left):
    rows = encode_pairs(GPT, [PROMPT, "a"], [TARGET, "b"], "decoder", 64)
    batch = pickle.loads(pickle.dumps(pair_collator(GPT, left)))([{**row, "id": "x"} for row in rows])
    long, short = (len(row["input_ids"]) for row in rows)
    own = slice(long - short, None) if left else slice(0, short)
    rest = slice(0, long - short) if left else slice(short, None)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["input_ids"][1, own].tolist() == rows[1]["input_ids"]
    assert batch["labels"][1, own].tolist() == rows[1]["labels"]
    assert set(batch["labels"][1, rest].tolist()) == {-100}
    assert batch["attention_mask"].sum(1).tolist() == [long, short]
    assert batch["attention_mask"][1, rest].sum() == 0


def test_an_encoder_decoders_labels_have_their_own_length():
    rows = encode_pairs(T5, [PROMPT, "a"], ["b", TARGET], "encoder-decoder", 64)
    batch = pair_collator(T5)(rows)
    assert batch["labels"].shape[1] == len(rows[1]["labels"]) != batch["input_ids"].shape[1]
    assert batch["labels"][0].tolist() == [*rows[0]["labels"], *[-100] * (len(rows[1]["labels"]) - 2)]


def test_padding_with_the_end_token_hides_no_label():
    rows = encode_pairs(GPT, [PROMPT, "a"], ["b", TARGET], "decoder", 64)
    batch = pair_collator(trained(pad_token=None))(rows)
    assert [int((labels == 2).sum()) for labels in batch["labels"]] == [1, 1]


@pytest.mark.parametrize(
    "family, auto_class, kind, left",
    [
        ("gpt2", "AutoModelForCausalLM", "decoder", False),
        ("llama", "AutoModelForCausalLM", "decoder", True),
        ("t5", "AutoModelForSeq2SeqLM", "encoder-decoder", False),
        ("bart", "AutoModelForSeq2SeqLM", "encoder-decoder", False),
    ],
)
@torch.no_grad()
def test_the_loss_is_that_of_the_targets_tokens_one_by_one(family, auto_class, kind, left):
    """Each target token's log-probability, asked for by itself after all before it."""
    tiny = next(t for t in all_tiny([family]) if t.auto_class == auto_class)
    torch.manual_seed(0)
    model = tiny.build(tiny.config(vocab_size=len(GPT), pad_token_id=0, eos_token_id=2)).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    tokenizer = {"gpt2": GPT, "llama": LLAMA, "t5": T5, "bart": BART}[family]
    rows = encode_pairs(tokenizer, [PROMPT, "a dog ran."], [TARGET, "dog"], kind, 64)
    total, count = 0.0, 0
    for row in rows:
        prompt, target = pair_of(row, kind)
        for place, token in enumerate(target):
            if kind == "decoder":
                logits = model(input_ids=torch.tensor([prompt + target[:place]])).logits
            else:
                start = [model.config.decoder_start_token_id, *target[:place]]
                logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([start])).logits
            total += float(F.cross_entropy(logits[0, -1], torch.tensor(token)))
            count += 1
    batch = PairCollator(0, left)(rows)
    positions = {"position_ids": (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)} if left else {}
    assert float(model(**batch, **positions).loss) == pytest.approx(total / count, rel=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a", "dog", "unbelievably", "🙂", "{x}", "the"]), max_size=60), st.integers(14, 60))
def test_the_field_that_may_be_cut_loses_words_until_the_prompt_fits(words, room):
    template, row = "{document} summary {{}} of {title}: ", {"document": " ".join(words), "title": "dog"}
    (text,) = fill(GPT, template, [row], room, shorten="document")
    whole = template.format(**row)
    if len(GPT.encode(whole, add_special_tokens=False)) <= room:
        assert text == whole
        return
    kept = text.removesuffix(template.format(document="", title="dog"))
    assert row["document"].startswith(kept)
    assert len(GPT.encode(text, add_special_tokens=False)) <= room
    missing = row["document"][len(kept) :].split()
    assert missing and kept.split() + missing == words
    # not much more was cut than had to be: eight of the longest words more would not fit
    longer = template.format(document=" ".join(words[: len(kept.split()) + 8]), title="dog")
    assert len(GPT.encode(longer, add_special_tokens=False)) > room or len(missing) < 8


@pytest.mark.parametrize(
    "tokenizer, kind", [(GPT, "decoder"), (LLAMA, "decoder"), (T5, "encoder-decoder"), (BART, "encoder-decoder")]
)
def test_a_prompt_that_fills_its_room_is_not_cut(tokenizer, kind, caplog):
    room = prompt_room(tokenizer, kind, 40, 10)
    rows = [{"text": "dog " * 60, "rest": "cat"}]
    with caplog.at_level("INFO"):
        prompts = fill(tokenizer, "{text} | {rest}:", rows, room, shorten="text", source="a.csv")
        features = encode_pairs(tokenizer, prompts, ["on the mat " * 10], kind, 40, 10)
    assert "a.csv: of 1 of 1 rows the end of text was cut" in caplog.text
    assert "prompts were cut" not in caplog.text
    prompt = tokenizer.decode(pair_of(features[0], kind).prompt, skip_special_tokens=True)
    assert prompt == prompts[0]
    assert prompt.endswith("dog | cat:")


def test_a_template_has_the_fields_that_it_needs_and_no_others():
    for good in ("{a}", "x {{}} {a} {b}", "{b}{a}{a}"):
        check_template(good, ["a"], ["b"])
    for bad, part in (
        ("{a", "is no template"),
        ("{a} }", "is no template"),
        ("a", "should have {a}, and may have {b}"),
        ("{b}", "should have {a}"),
        ("{a} {c}", "should have {a}"),
        ("{a!r}", "should have {a}"),
        ("{a:>9}", "should have {a}"),
        ("{} {a}", "should have {a}"),
        ("{a.b}", "should have {a}"),
    ):
        with pytest.raises(UsageError) as caught:
            check_template(bad, ["a"], ["b"])
        assert part in str(caught.value)
        assert "{{ }}" in (caught.value.hint or "")
