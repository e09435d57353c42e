"""Windows, places of answers and the choice of spans, against plain slow computations: an off-by-one would be seen."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from refarch_question_answering import windows as module
from refarch_question_answering.examples import Question, Questions
from refarch_question_answering.windows import Lengths, answers, best_spans, encode, fitted, tokens_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from refarch.errors import DataError
from refarch.testing import tiny_tokenizer

WORDS = ["ann", "don't", "co-op", "a", "u.s.", "naïve", "3", "🙂", "  ", "(old)", "Bob"]


def gpt2(trim):
    """A byte-level BPE: offsets with the blank before a word (as Llama 3 has them) or without (as RoBERTa)."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([" ".join(WORDS)] * 5, trainer)
    core.post_processor = processors.ByteLevel(trim_offsets=trim)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="</s>")


TOKENIZERS = {"bert": tiny_tokenizer(10_000), "roberta": gpt2(True), "llama": gpt2(False)}
BERT = TOKENIZERS["bert"]
BERT.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]


def question(context, answer=None, start=None, text="who is it?"):
    given = () if answer is None else (answer,)
    return Question(text, context, given, tuple(start for _ in given), "here")


def windows_of(items, tokenizer=BERT, window=40, stride=5, longest=16):
    return encode(Questions(items, "a.json"), tokenizer, Lengths(window, stride, longest), asked=True)


def plain_tokens(text):
    """Token and characters of each piece: words searched from left to right, their characters one token each."""
    found, at = [], 0
    for token in BERT.tokenize(text):
        character = token.removeprefix("##") if len(token) > 2 else token
        at = text.lower().index(character, at)
        found.append((BERT.convert_tokens_to_ids(token), at, at + len(character)))
        at += len(character)
    return found


@settings(max_examples=60, deadline=None)
@given(st.text("ab c.", min_size=1, max_size=120).filter(str.strip), st.integers(0, 11), st.integers(24, 60), st.data())
def test_windows_and_places_as_counted_one_by_one(context, stride, window, data):
    first = data.draw(st.integers(0, len(context) - 1).filter(lambda i: context[i] != " "))
    last = data.draw(st.integers(first, len(context) - 1).filter(lambda i: context[i] != " "))
    answer = context[first : last + 1]
    asked = [BERT.cls_token_id, *(token for token, _, _ in plain_tokens("who is it?")), BERT.sep_token_id]
    pieces = plain_tokens(context)
    room = window - len(asked) - 1
    found = windows_of([question(context, answer, first)], window=window, stride=stride)
    begin, number = 0, 0
    while True:
        part = pieces[begin : begin + room]
        row = found.rows[number]
        assert row["input_ids"].tolist() == [*asked, *(token for token, _, _ in part), BERT.sep_token_id]
        assert row["token_type_ids"].tolist() == [0] * len(asked) + [1] * (len(part) + 1)
        places = [len(asked) + i for i, (_, start, stop) in enumerate(part) if start <= last and stop > first]
        whole = [i for i, (_, start, stop) in enumerate(pieces) if start <= last and stop > first]
        expected = (places[0], places[-1]) if len(places) == len(whole) else (0, 0)
        assert (row["start_positions"], row["end_positions"]) == expected
        spans = found.spans[number]
        assert spans[len(asked) : -1].tolist() == [[start, stop] for _, start, stop in part]
        assert not spans[: len(asked)].any() and not spans[-1].any()
        number += 1
        if begin + room >= len(pieces):
            break
        begin += room - stride
    assert number == len(found)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).filter(lambda words: "".join(words).strip()),
    st.integers(28, 70),
    st.integers(0, 8),
    st.sampled_from(sorted(TOKENIZERS)),
    st.data(),
)
def test_the_places_of_an_answer_give_its_text_back(words, window, stride, name, data):
    context = " ".join(words)
    first = data.draw(st.integers(0, len(words) - 1).filter(lambda i: words[i].strip()))
    last = data.draw(st.integers(first, min(first + 3, len(words) - 1)).filter(lambda i: words[i].strip()))
    start, answer = len(" ".join([*words[:first], ""])), " ".join(words[first : last + 1])
    found = windows_of([question(context, answer, start)], TOKENIZERS[name], window, stride)
    covered = []
    for row, spans, null in zip(found.rows, found.spans, found.null, strict=True):
        assert len(row["input_ids"]) <= window
        places = row["start_positions"], row["end_positions"]
        if places != (null, null):
            assert context[spans[places[0], 0] : spans[places[1], 1]].strip() == answer
            covered.append(row)
        else:
            own = spans[spans[:, 1] > spans[:, 0]]
            assert not len(own) or own[0, 0] > start or own[-1, 1] < start + len(answer)
    whole = len(TOKENIZERS[name](answer, add_special_tokens=False)["input_ids"])
    assert covered or whole + 1 >= stride  # windows that share enough tokens hold every short answer


def test_the_null_token_is_the_classification_token_or_the_last():
    found = windows_of([question("ann saw bob.")])
    assert found.null == [0] and found.rows[0]["start_positions"] == 0
    for name in ("roberta", "llama"):
        found = windows_of([question("ann saw bob.")], TOKENIZERS[name])
        assert found.null == [len(found.rows[0]["input_ids"]) - 1]
        assert found.rows[0]["input_ids"][-1] == TOKENIZERS[name].eos_token_id
        assert not found.spans[0][-1].any()


def test_answers_at_both_ends_and_with_blanks_around():
    context = " ann saw bob "
    for answer in ("ann", "bob", " ann", "bob ", " ann saw bob "):
        found = windows_of([question(context, answer, context.index(answer))])
        row, spans = found.rows[0], found.spans[0]
        assert context[spans[row["start_positions"], 0] : spans[row["end_positions"], 1]] == answer.strip()
    assert tokens_of(question("ann", "ann", None), found.spans[0]) is None


def test_a_window_that_lacks_one_character_of_the_answer_does_not_hold_it():
    asked = question("xbcdy", "bcd", 1)
    characters = np.array([[0, 0], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [0, 0]])  # a token each
    for first, last, place in ((1, 5, (2, 4)), (2, 4, (1, 3)), (2, 3, None), (3, 4, None), (1, 3, None), (3, 5, None)):
        window = np.array([[0, 0], *characters[first : last + 1], [0, 0]])
        assert tokens_of(asked, window) == place, (first, last)


def test_questions_tokenized_in_several_batches_are_the_same(monkeypatch):
    items = [question(f"ann saw {i} dogs. " * (1 + i % 4), str(i), 8, text=f"who saw {i}?") for i in range(10)]
    once = windows_of(items, window=36)
    monkeypatch.setattr(module, "BATCH", 3)
    apart = windows_of(items, window=36)
    assert {row["question"] for row in apart.rows} == set(range(10))
    assert once.null == apart.null and len(once) == len(apart) > 10
    for left, right in zip(once.rows, apart.rows, strict=True):
        assert {name: np.asarray(value).tolist() for name, value in left.items()} == {
            name: np.asarray(value).tolist() for name, value in right.items()
        }
    for row, spans in zip(apart.rows, apart.spans, strict=True):
        if row["start_positions"]:
            covered = items[row["question"]].context[spans[row["start_positions"], 0] : spans[row["end_positions"], 1]]
            assert covered == str(row["question"])
    assert sum(row["start_positions"] > 0 for row in apart.rows) >= 10


def test_a_long_question_is_cut_and_said(caplog):
    with caplog.at_level("INFO"):
        found = windows_of([question("ann " * 30, text="who " * 30)], window=30, longest=9)
    assert "a.json: 1 of 1 questions were cut to 9 tokens" in caplog.text
    assert "1 questions are read in" in caplog.text
    assert found.rows[0]["input_ids"][:11].tolist() == BERT("who who who")["input_ids"]
    assert {len(row["input_ids"]) for row in found.rows[:-1]} == {30}


def test_lengths_fit_the_tokenizers_own_limit(caplog):
    assert fitted(BERT, 384, 128, 64) == (384, 128, 64)
    with caplog.at_level("INFO"):
        assert fitted(tiny_tokenizer(48), 384, 128, 64) == (48, 14, 16)
    assert "windows have 48 tokens and share 14, questions at most 16" in caplog.text


def test_a_tokenizer_without_offsets_is_refused(tmp_path):
    from transformers.models.bert_japanese import BertJapaneseTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]))
    slow = BertJapaneseTokenizer(
        str(tmp_path / "vocab.txt"), word_tokenizer_type="basic", subword_tokenizer_type="wordpiece"
    )
    with pytest.raises(DataError, match=r"BertJapaneseTokenizer does not tell[\s\S]*fast tokenizer"):
        windows_of([question("a")], slow)


def plain_spans(start, end, spans, longest):
    """All spans, one by one, best first."""
    every = []
    for i in range(len(start)):
        for j in range(i, min(i + longest, len(start))):
            if spans[i][1] > spans[i][0] and spans[j][1] > spans[j][0]:
                every.append((float(start[i] + end[j]), int(spans[i][0]), int(spans[j][1])))
    return sorted(every, key=lambda item: -item[0])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 14), st.integers(1, 6), st.integers(1, 30))
def test_the_best_spans_as_by_trying_all(seed, size, longest, count):
    chance = np.random.default_rng(seed)
    start, end = chance.normal(size=(2, size)).astype(np.float32)
    spans = np.array([[3 * i, 3 * i + 2] if chance.random() < 0.8 else [0, 0] for i in range(size)], dtype=np.int32)
    spans[0] = 0
    expected = plain_spans(start, end, spans, longest)
    got = best_spans(start, end, spans, longest, count)
    assert got == expected[:count]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([None, -2.0, 0.0, 1.5]), st.integers(1, 12))
def test_answers_over_all_windows_as_by_trying_all(seed, threshold, longest):
    chance = np.random.default_rng(seed)
    contexts = ["ann saw bob and a dog. the dog saw ann. " * 2, "it is 3.", "bob (old) is in the u.s. " * 3]
    found = windows_of([question(context) for context in contexts], window=36, stride=6)
    assert len(found) > 6
    start, end = ([chance.normal(size=len(row["input_ids"])) for row in found.rows] for _ in range(2))
    expected = []
    for number, context in enumerate(contexts):
        best, least = (-math.inf, 0, 0), math.inf
        for index, row in enumerate(found.rows):
            if row["question"] == number:
                candidates = plain_spans(start[index], end[index], found.spans[index], longest)
                best = max(best, candidates[0])
                least = min(least, start[index][0] + end[index][0])
        none = threshold is not None and least - best[0] > threshold
        expected.append("" if none else context[best[1] : best[2]])
    assert answers(found, start, end, longest=longest, n_best=3, threshold=threshold) == expected


def test_a_context_without_tokens_has_no_answer():
    found = windows_of([question("\u200b")])
    zeros = [np.zeros(len(found.rows[0]["input_ids"]))]
    assert answers(found, zeros, zeros, longest=5, n_best=3, threshold=None) == [""]
