"""Words to pieces and windows, against plain slow computations: an off-by-one would be seen."""

import unicodedata

import pytest
from hypothesis import given, settings, strategies as st
from refarch_token_classification.sentences import Sentences
from refarch_token_classification.windows import Windows, encode, pieces, plan
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from refarch.errors import DataError
from refarch.testing import tiny_tokenizer

NAMES = ["O", "B-x", "I-x"]
WORDS = ["Ann", "playing", "New-York", "don't", "a", "U.S.", "naïve", "co2", "...", "🙂", "http://t.co/x"]


def gpt2():
    """A byte-level BPE like those of GPT-2 and RoBERTa: it needs add_prefix_space for lists of words."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([" ".join(WORDS)] * 5, trainer)
    core.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def unigram():
    """A tokenizer like T5's, whose blank can be a token of its own."""
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    core.train_from_iterator([" ".join(WORDS)] * 5, trainer)
    core.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>", pad_token="</s>")


TOKENIZERS = {"bert": tiny_tokenizer(512), "gpt2": gpt2(), "t5": unigram()}


def of(words, tags=None):
    tags = tags or [[NAMES[i % 3] for i in range(len(sentence))] for sentence in words]
    return Sentences(words, tags, [f"row {i}" for i in range(len(words))], [None] * len(words), "a.jsonl")


def encoded(words, tokenizer, max_length=64, overlap=0, every_piece=False, tags=None) -> Windows:
    return encode(of(words, tags), tokenizer, NAMES, max_length=max_length, overlap=overlap, every_piece=every_piece)


@pytest.mark.parametrize("every_piece", [False, True])
def test_the_first_piece_of_each_word_has_its_tag(every_piece):
    """Each word tokenized by itself."""
    tokenizer = TOKENIZERS["bert"]
    words = [WORDS, ["one"], WORDS[::-1]]
    rows = encoded(words, tokenizer, 200, every_piece=every_piece).rows
    assert len(rows) == 3
    for row, sentence in zip(rows, words, strict=True):
        ids, labels, places = [tokenizer.cls_token_id], [-100], [-1]
        for number, word in enumerate(sentence):
            own = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word))
            label = number % 3
            later = (2 if label else 0) if every_piece else -100  # B-x goes on as I-x
            ids += own
            labels += [label] + [later] * (len(own) - 1)
            places += [number] + [-1] * (len(own) - 1)
        assert row["input_ids"] == [*ids, tokenizer.sep_token_id]
        assert row["labels"] == [*labels, -100]
        assert row["words"] == [*places, -1]
        assert row["attention_mask"] == [1] * len(row["input_ids"])


def test_bert_as_by_transformers_word_ids():
    tokenizer = TOKENIZERS["bert"]
    row = encoded([WORDS], tokenizer, 200).rows[0]
    reference = tokenizer(WORDS, is_split_into_words=True)
    assert row["input_ids"] == reference["input_ids"]
    first, seen = [], set()
    for word in reference.word_ids():
        first.append(-1 if word is None or word in seen else word)
        seen.add(word)
    assert row["words"] == first


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_pieces_are_those_of_the_plain_text_and_give_their_words_back(name):
    tokenizer = TOKENIZERS[name]
    row = encoded([WORDS], tokenizer, 200).rows[0]
    assert row["input_ids"] == tokenizer(" ".join(WORDS))["input_ids"]
    starts = [place for place, word in enumerate(row["words"]) if word >= 0]
    assert [row["words"][place] for place in starts] == list(range(len(WORDS)))
    ends = [*starts[1:], len(row["input_ids"])]
    for word, start, end in zip(WORDS, starts, ends, strict=True):
        text = tokenizer.decode(row["input_ids"][start:end], skip_special_tokens=True)
        assert text.strip() == unicodedata.normalize("NFKC", word)
    if name == "gpt2":  # the blank before a word is in its first piece, so no list of words is needed
        tokens = tokenizer.convert_ids_to_tokens(row["input_ids"])
        assert all(tokens[place].startswith("Ġ") for place in starts[1:])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([*WORDS, "", "\u200b", "two words"]), min_size=1, max_size=25), min_size=1, max_size=3
    ),
    st.integers(8, 40),
    st.integers(0, 9),
    st.sampled_from(sorted(TOKENIZERS)),
)
def test_every_word_is_labelled_exactly_once_with_its_own_tag(words, max_length, overlap, name):
    tokenizer = TOKENIZERS[name]
    windows = encoded(words, tokenizer, max_length, overlap)
    of_words = pieces(words, tokenizer)
    seen = [[0] * len(sentence) for sentence in words]
    for row in windows.rows:
        assert len(row["input_ids"]) <= max_length
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["words"]) == len(row["attention_mask"])
        for token, label, word in zip(row["input_ids"], row["labels"], row["words"], strict=True):
            assert (label == -100) == (word == -1)
            if word >= 0:
                seen[row["sentence"]][word] += 1
                assert label == word % 3
                known = of_words[row["sentence"]][word]
                assert token == known.ids[known.first]
    for sentence, counts in zip(of_words, seen, strict=True):
        assert counts == [int(word.first is not None) for word in sentence]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(4, 15), st.integers(0, 12))
def test_windows_cover_all_words_in_order_and_fit(counts, room, overlap):
    windows = plan(counts, room, overlap)
    labelled = [word for window in windows for word in range(window.first, window.last)]
    assert labelled == list(range(len(counts)))
    for window in windows:
        assert window.start <= window.first < window.last <= window.stop
        assert sum(counts[window.start : window.stop]) <= room or window.stop - window.start == 1
    if sum(counts) <= room:
        assert len(windows) == 1


def test_windows_share_words_and_label_them_where_both_sides_are_seen():
    assert plan([1] * 10, 6, 4) == [(0, 6, 0, 4), (2, 8, 4, 6), (4, 10, 6, 10)]
    assert plan([1] * 6, 6, 4) == [(0, 6, 0, 6)]
    assert plan([1] * 7, 6, 0) == [(0, 6, 0, 6), (6, 7, 6, 7)]
    assert plan([3, 9, 3], 6, 2) == [(0, 1, 0, 1), (1, 2, 1, 2), (2, 3, 2, 3)]


def test_what_is_split_or_lost_is_said(caplog):
    with caplog.at_level("INFO"):
        windows = encoded([["abc"] * 9, ["x" * 20, "\u200b", "y"]], TOKENIZERS["bert"], 12)
    assert "a.jsonl: 2 of 2 sentences do not fit max_length" in caplog.text
    assert "a.jsonl: 1 of 12 words have more pieces than max_length" in caplog.text
    assert "a.jsonl: 1 of 12 words leave no token" in caplog.text
    assert max(len(row["input_ids"]) for row in windows.rows) == 12


def test_a_tokenizer_without_offsets_is_refused(tmp_path):
    from transformers.models.bert_japanese import BertJapaneseTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]))
    slow = BertJapaneseTokenizer(
        str(tmp_path / "vocab.txt"), word_tokenizer_type="basic", subword_tokenizer_type="wordpiece"
    )
    with pytest.raises(DataError, match=r"BertJapaneseTokenizer does not tell which characters[\s\S]*fast tokenizer"):
        encoded([["a"]], slow)
