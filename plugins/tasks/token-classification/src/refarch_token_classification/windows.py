"""Words to word pieces, and sentences to windows that the model can read, so that each word is labelled exactly once.

A sentence is tokenized as the text that its words give with a blank between them: which piece belongs to which word
follows from the characters that it covers. So every fast tokenizer gives the pieces it was trained on (those of GPT-2
and RoBERTa take the blank before a word into its first piece).
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from refarch.errors import DataError
from refarch.tasks import IGNORED, Frame, frame
from refarch_token_classification.schemes import continued
from refarch_token_classification.sentences import Sentences

logger = logging.getLogger(__name__)


class Word(NamedTuple):
    """The pieces of a word.

    Attributes:
        ids: its tokens, and before them those that stand for blanks alone.
        first: where its first piece is among them; None for a word of which the tokenizer leaves nothing.
    """

    ids: list[int]
    first: int | None


class Window(NamedTuple):
    """Words ``start`` to ``stop`` of a sentence are read, ``first`` to ``last`` of these labelled."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Windows:
    """A split ready for training.

    Attributes:
        rows: features of each window. ``words`` has for each token the number of the word whose first piece it is, -1
            elsewhere; ``sentence`` is the number of the sentence.
        tags: the true tags of each sentence.
    """

    rows: Sequence[dict[str, Any]]
    tags: Sequence[Sequence[str]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        return self.rows[index]


def encode(
    sentences: Sentences,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    *,
    max_length: int,
    overlap: int,
    every_piece: bool,
) -> Windows:
    """Sentences as windows of at most ``max_length`` tokens.

    Args:
        sentences: of one split.
        tokenizer: a fast one.
        names: the tags in the order of their numbers.
        max_length: special tokens included.
        overlap: words that two windows of a sentence share.
        every_piece: whether the later pieces of a word have labels too.

    Raises:
        DataError: the tokenizer does not tell which characters a token covers.
    """
    around = frame(tokenizer)
    room = min(max_length, tokenizer.model_max_length) - around.size
    numbers = {name: number for number, name in enumerate(names)}
    rows: list[dict[str, Any]] = []
    split, lost, long = 0, 0, 0
    for number, words in enumerate(pieces(sentences.words, tokenizer)):
        windows = plan([len(word.ids) for word in words], room, overlap)
        split += len(windows) > 1
        lost += sum(word.first is None for word in words)
        long += sum(len(word.ids) > room for word in words)
        for window in windows:
            row = _row(words, window, sentences.tags[number], numbers, room, every_piece)
            if row["input_ids"]:
                rows.append({**_framed(row, around), "sentence": number})
    total = sum(map(len, sentences.words))
    for count, of, what in (
        (split, len(sentences), "sentences do not fit max_length and are read in windows"),
        (long, total, "words have more pieces than max_length and lose their ends"),
        (lost, total, "words leave no token and are scored as O"),
    ):
        if count:
            logger.info("%s: %d of %d %s", sentences.source, count, of, what)
    return Windows(rows, sentences.tags)


def pieces(sentences: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> list[list[Word]]:
    """The pieces of each word of each sentence, without special tokens."""
    if not tokenizer.is_fast:
        raise DataError(
            f"the tokenizer {type(tokenizer).__name__} does not tell which characters a token covers, so that words and"
            " pieces cannot be matched",
            "use a backbone with a fast tokenizer (a tokenizer.json)",
        )
    if not sentences:
        return []
    texts = [" ".join(words) for words in sentences]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        _grouped(words, text, ids, offsets)
        for words, text, ids, offsets in zip(
            sentences, texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
        )
    ]


def _grouped(words: Sequence[str], text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> list[Word]:
    starts, at = [], 0
    for name in words:
        starts.append(at)
        at += len(name) + 1
    own: list[list[int]] = [[] for _ in words]
    first: list[int | None] = [None] * len(words)
    blank: list[int] = []  # tokens of blanks alone, which go with the word that follows
    word = 0
    for token, (start, stop) in zip(ids, offsets, strict=True):
        while start < stop and text[start].isspace():
            start += 1
        if start == stop:
            blank.append(token)
            continue
        word = bisect_right(starts, start) - 1
        own[word] += blank
        if first[word] is None:
            first[word] = len(own[word])
        own[word].append(token)
        blank = []
    own[word] += blank
    return [Word(*both) for both in zip(own, first, strict=True)]


def plan(counts: Sequence[int], room: int, overlap: int) -> list[Window]:
    """Windows over words of so many pieces, each of at most ``room`` pieces (or one word that has more).

    Two windows share ``overlap`` words where there is room; of these the first half is labelled in the earlier window
    and the rest in the later one, so that words are labelled where they have context on both sides.
    """
    windows: list[Window] = []
    start = first = 0
    while True:
        stop, used = start, 0
        while stop < len(counts) and (used + counts[stop] <= room or stop == start):
            used += counts[stop]
            stop += 1
        if stop == len(counts):
            return [*windows, Window(start, stop, first, stop)]
        last = max(first + 1, stop - overlap // 2)
        windows.append(Window(start, stop, first, last))
        start, first = max(start + 1, last - (overlap - overlap // 2)), last
        while start < first and sum(counts[start : first + 1]) > room:
            start += 1


def _row(
    words: Sequence[Word],
    window: Window,
    tags: Sequence[str],
    numbers: dict[str, int],
    room: int,
    every_piece: bool,
) -> dict[str, list[int]]:
    ids: list[int] = []
    labels: list[int] = []
    place: list[int] = []
    for index in range(window.start, window.stop):
        word = words[index]
        own_labels, own_place = [IGNORED] * len(word.ids), [-1] * len(word.ids)
        if word.first is not None and window.first <= index < window.last:
            if every_piece:
                later = numbers[continued(tags[index])]
                own_labels[word.first :] = [later] * (len(word.ids) - word.first)
            own_labels[word.first], own_place[word.first] = numbers[tags[index]], index
        ids += word.ids
        labels += own_labels
        place += own_place
    return {"input_ids": ids[:room], "labels": labels[:room], "words": place[:room]}


def _framed(row: dict[str, list[int]], around: Frame) -> dict[str, Any]:
    none = Frame([IGNORED] * len(around.before), [IGNORED] * len(around.after))
    nowhere = Frame([-1] * len(around.before), [-1] * len(around.after))
    ids = around.around(row["input_ids"])
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "labels": none.around(row["labels"]),
        "words": nowhere.around(row["words"]),
    }
