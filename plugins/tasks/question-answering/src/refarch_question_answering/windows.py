"""Long contexts as windows that share tokens, where the answer is in each, and the answer from what the model says.

A window is ``question context-part`` as the tokenizer joins a pair. The context's tokens know the characters that they
cover, by which an answer's characters become a first and a last token and back. A window that does not hold the whole
answer points to its null token instead: the classification token, or where the tokenizer has none the last one, which
in a decoder alone has read all. It is the end token, added where the tokenizer itself does not.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from refarch.errors import DataError
from refarch.tasks import end_token
from refarch_question_answering.examples import Question, Questions

logger = logging.getLogger(__name__)
BATCH = 256
"""Questions that are tokenized at a time: offsets of all would fill the memory."""


@dataclass(frozen=True)
class Windows:
    """A split ready for training.

    Attributes:
        rows: features of each window; ``question`` is the number of the question.
        questions: of the split.
        spans: of each window, the characters of the context that each token covers, [tokens, 2]; both 0 for tokens
            that are not of the context. Kept for the splits that are asked.
        null: of each window, the token that stands for no answer.
    """

    questions: Questions
    rows: list[dict[str, Any]] = field(default_factory=list)
    spans: list[np.ndarray] = field(default_factory=list)
    null: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        return self.rows[index]


class Lengths(NamedTuple):
    """Tokens, fitted to what a tokenizer allows."""

    window: int
    stride: int
    question: int


def fitted(tokenizer: PreTrainedTokenizerBase, window: int, stride: int, question: int) -> Lengths:
    """The lengths that the options ask for, smaller where a window leaves no room for them."""
    longest = min(window, tokenizer.model_max_length)
    question = min(question, longest // 3)
    room = longest - question - max(1, tokenizer.num_special_tokens_to_add(pair=True))
    fitting = Lengths(longest, min(stride, room // 2), question)
    if fitting != (window, stride, question):
        logger.info("windows have %d tokens and share %d, questions at most %d", *fitting)
    return fitting


def encode(questions: Questions, tokenizer: PreTrainedTokenizerBase, lengths: Lengths, *, asked: bool) -> Windows:
    """Questions as windows.

    Args:
        questions: of one split.
        tokenizer: a fast one.
        lengths: as :func:`fitted` gives them.
        asked: whether the split is asked too, so that the spans of its tokens are kept.

    Raises:
        DataError: the tokenizer does not tell which characters a token covers.
    """
    if not tokenizer.is_fast:
        raise DataError(
            f"the tokenizer {type(tokenizer).__name__} does not tell which characters a token covers, so that answers"
            " cannot be found in it",
            "use a backbone with a fast tokenizer (a tokenizer.json)",
        )
    windows = Windows(questions)
    texts, cut = _cut([item.text for item in questions.items], tokenizer, lengths.question)
    for begin in range(0, len(questions), BATCH):
        _add(windows, texts[begin : begin + BATCH], begin, tokenizer, lengths, asked)
    several = len(windows) - len({row["question"] for row in windows.rows})
    if cut:
        logger.info("%s: %d of %d questions were cut to %d tokens", questions.source, cut, len(texts), lengths.question)
    if several:
        logger.info("%s: %d questions are read in %d windows", questions.source, len(texts), len(windows))
    return windows


def _cut(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, longest: int) -> tuple[list[str], int]:
    """Texts of at most so many tokens, and how many had more."""
    if not texts:
        return [], 0
    found = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    short = [
        text if len(offsets) <= longest else text[: offsets[longest - 1][1]]
        for text, offsets in zip(texts, found["offset_mapping"], strict=True)
    ]
    return short, sum(len(offsets) > longest for offsets in found["offset_mapping"])


def _add(
    windows: Windows,
    texts: Sequence[str],
    begin: int,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Lengths,
    asked: bool,
) -> None:
    """Add the windows of some questions, which are those from ``begin`` on."""
    items = windows.questions.items[begin : begin + len(texts)]
    closing = [] if _ends(tokenizer) else [end_token(tokenizer)]
    encoded = tokenizer(
        list(texts),
        [item.context for item in items],
        truncation="only_second",
        max_length=lengths.window - len(closing),
        stride=lengths.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    added = {
        name: ids for name, ids in (("input_ids", closing), ("token_type_ids", [1] * len(closing))) if name in encoded
    }
    for index, number in enumerate(encoded["overflow_to_sample_mapping"]):
        of_context = np.array([part == 1 for part in encoded.sequence_ids(index)])
        span = np.array(encoded["offset_mapping"][index], dtype=np.int32) * of_context[:, None]  # t 2
        span = np.pad(span, ((0, len(closing)), (0, 0)))
        row: dict[str, Any] = {
            name: np.array([*encoded[name][index], *end], dtype=np.int32) for name, end in added.items()
        }
        null = null_token(row["input_ids"], tokenizer)
        first, last = tokens_of(items[number], span) or (null, null)
        windows.rows.append({**row, "start_positions": first, "end_positions": last, "question": begin + int(number)})
        if asked:
            windows.spans.append(span)
            windows.null.append(null)


def _ends(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a pair has a token of its own that can stand for no answer."""
    probe = tokenizer("a", "a")
    return tokenizer.cls_token_id in probe["input_ids"] or probe.sequence_ids(0)[-1] is None


def null_token(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands for no answer."""
    own = tokenizer.cls_token_id
    found = np.flatnonzero(ids == own) if own is not None else np.empty(0, dtype=int)
    return int(found[0]) if len(found) else len(ids) - 1


def tokens_of(question: Question, span: np.ndarray) -> tuple[int, int] | None:
    """The first and last token of the first answer; None where a window does not hold all of it.

    Args:
        question: its answer.
        span: the characters of the context that each token covers, [t, 2].
    """
    if not question.answers or question.starts[0] is None:
        return None
    text = question.answers[0]
    start = question.starts[0] + len(text) - len(text.lstrip())  # no token stands for a blank at an end
    stop = start + len(text.strip())
    covers = np.flatnonzero(span[:, 1] > span[:, 0])
    if not len(covers) or span[covers[0], 0] > start or span[covers[-1], 1] < stop:
        return None
    first = covers[span[covers, 1] > start][0]
    last = covers[span[covers, 0] < stop][-1]
    return (int(first), int(last)) if first <= last else None


class Span(NamedTuple):
    """Characters ``start`` to ``stop`` of a context, and how much speaks for them."""

    score: float
    start: int
    stop: int


def best_spans(start: np.ndarray, end: np.ndarray, span: np.ndarray, longest: int, count: int) -> list[Span]:
    """The spans of a window that have the highest sums of a start's and an end's logit, best first.

    Args:
        start: logits, [t].
        end: logits, [t].
        span: the characters that each token covers, [t, 2].
        longest: tokens of a span.
        count: how many.
    """
    allowed = np.flatnonzero(span[:, 1] > span[:, 0])
    if not len(allowed):
        return []
    sums = start[allowed, None] + end[None, allowed]  # c c
    gap = allowed[None, :] - allowed[:, None]
    sums[(gap < 0) | (gap >= longest)] = -np.inf
    flat = sums.ravel()
    chosen = np.argpartition(-flat, min(count, flat.size) - 1)[:count]
    chosen = chosen[np.lexsort((chosen, -flat[chosen]))]
    first, last = np.unravel_index(chosen[np.isfinite(flat[chosen])], sums.shape)
    return [
        Span(float(sums[a, b]), int(span[allowed[a], 0]), int(span[allowed[b], 1]))
        for a, b in zip(first, last, strict=True)
    ]


def answers(
    windows: Windows,
    start: Sequence[np.ndarray],
    end: Sequence[np.ndarray],
    *,
    longest: int,
    n_best: int,
    threshold: float | None,
) -> list[str]:
    """The answer to each question: the text of the best span over all of its windows.

    Args:
        windows: of a split that is asked.
        start: logits of each window, [t].
        end: logits of each window, [t].
        longest: tokens of an answer.
        n_best: spans of each window that are considered.
        threshold: no answer is given where the least that a window's null token has is higher than the best span by
            more than this; None where every question has an answer.
    """
    found: list[list[Span]] = [[] for _ in windows.questions.items]
    null = [math.inf] * len(found)
    for row, a, b, span, nothing in zip(windows.rows, start, end, windows.spans, windows.null, strict=True):
        question = row["question"]
        found[question] += best_spans(a, b, span, longest, n_best)
        null[question] = min(null[question], float(a[nothing] + b[nothing]))
    given = []
    for item, spans, least in zip(windows.questions.items, found, null, strict=True):
        texts = ((item.context[s.start : s.stop].strip(), s.score) for s in sorted(spans, key=lambda s: -s.score))
        best, score = next((pair for pair in texts if pair[0]), ("", -math.inf))
        given.append("" if threshold is not None and least - score > threshold else best)
    return given
