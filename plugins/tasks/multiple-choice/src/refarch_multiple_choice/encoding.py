"""Questions as what a backbone takes: a prompt that each choice continues, or that stands beside each under a head."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from refarch.errors import DataError, UsageError
from refarch.tasks import Features, Pair, PairCollator, TextKind, encode_pairs, fill, pair_of, prompt_room
from refarch_multiple_choice.questions import Questions

logger = logging.getLogger(__name__)
CONTEXT = "{context}"
PROMPTS: dict[str, tuple[str, str]] = {
    "decoder": ("Question: {question}\nAnswer:", "{context}\nQuestion: {question}\nAnswer:"),
    "encoder-decoder": ("question: {question}", "question: {question} context: {context}"),
    "encoder": ("{question}", "{context} {question}"),
}
"""By the kind of backbone: without and with a context."""


@dataclass(frozen=True)
class Compared:
    """A split whose choices' likelihoods are compared: one row a question, whose target is the right choice.

    Attributes:
        rows: prompts and right choices.
        pairs: for each question, prompt and continuation of every choice.
        questions: what they are of.
    """

    rows: Sequence[Features]
    pairs: Sequence[Sequence[Pair]]
    questions: Questions

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Features:
        return self.rows[index]


@dataclass(frozen=True)
class Chosen:
    """A split for a head: one row a question, with a sequence of tokens for each choice."""

    rows: Sequence[Mapping[str, Any]]
    questions: Questions

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        return self.rows[index]


@dataclass(frozen=True)
class ChoiceCollator:
    """Pads sequences, and questions with fewer choices than their batch's most.

    What is added repeats a wrong choice: it is never the answer, and a model that takes it for one is wrong anyway.
    """

    pairs: PairCollator

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """``input_ids``, ``attention_mask`` ... [b, choices, t] and ``labels`` [b]."""
        most = max(len(row["input_ids"]) for row in rows)
        flat: list[dict[str, Any]] = []
        for row in rows:
            own, wrong = len(row["input_ids"]), 1 if row["labels"] == 0 else 0
            for place in [*range(own), *[wrong] * (most - own)]:
                flat.append({name: values[place] for name, values in row.items() if name != "labels"})
        batch = {name: value.view(len(rows), most, -1) for name, value in self.pairs(flat).items()}
        return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}


def prompts(
    questions: Questions, tokenizer: PreTrainedTokenizerBase, kind: str, room: int, options: Mapping[str, Any]
) -> list[str]:
    """What is read before each question's choices; a context that is too long loses its end."""
    template = options["prompt"] or PROMPTS[kind][options["context_column"] is not None]
    fields = [{"question": item.text, "context": item.context} for item in questions.items]
    if CONTEXT not in template:
        return [template.format(**row) for row in fields]
    return fill(tokenizer, template, fields, room, shorten="context", source=questions.source)


def compared(
    questions: Questions, tokenizer: PreTrainedTokenizerBase, kind: TextKind, options: Mapping[str, Any]
) -> Compared:
    """Questions for a backbone that writes: each choice as the target of the same prompt.

    Only the words of a choice count, and no end token: its likelihood is that of its text going on from the prompt.

    Raises:
        DataError: the tokenizer finds nothing in a choice; with its line.
        UsageError: the lengths leave no room for a prompt.
    """
    longest, own = options["max_length"], options["max_choice"]
    given = prompts(questions, tokenizer, kind, prompt_room(tokenizer, kind, longest, own), options)
    if kind == "decoder":  # for which prompt and choice are one text
        given = [prompt if prompt[-1:].isspace() else f"{prompt} " for prompt in given]
    counts = [len(item.choices) for item in questions.items]
    features = encode_pairs(
        tokenizer,
        [prompt for prompt, count in zip(given, counts, strict=True) for _ in range(count)],
        [choice for item in questions.items for choice in item.choices],
        kind,
        longest,
        own,
        cut="left",  # what a question asks stands at its end
        end=False,
        source=questions.source,
    )
    rows, pairs, start = [], [], 0
    for item, count in zip(questions.items, counts, strict=True):
        mine, start = features[start : start + count], start + count
        pairs.append([pair_of(each, kind) for each in mine])
        rows.append(mine[item.answer])
        for choice, pair in zip(item.choices, pairs[-1], strict=True):
            if not pair.target:
                raise DataError(f"{item.place}: the tokenizer finds nothing in the choice {choice!r}", "change it")
    return Compared(rows, pairs, questions)


def chosen(questions: Questions, tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> Chosen:
    """Questions for an encoder's head: prompt and choice as two texts of one sequence.

    Raises:
        UsageError: the lengths leave no room for a prompt.
    """
    longest = min(options["max_length"], tokenizer.model_max_length)
    room = longest - options["max_choice"] - tokenizer.num_special_tokens_to_add(pair=True)
    if room < 1:
        raise UsageError(
            f"{longest} tokens leave no room for a prompt beside a choice of {options['max_choice']}",
            "raise max_length, or lower max_choice",
        )
    given = _within(
        prompts(questions, tokenizer, "encoder", room, options), tokenizer, room, "prompts", questions, True
    )
    choices = [choice for item in questions.items for choice in item.choices]
    words = iter(_within(choices, tokenizer, options["max_choice"], "choices", questions, False))
    rows: list[dict[str, Any]] = []
    for prompt, item in zip(given, questions.items, strict=True):
        own = [next(words) for _ in item.choices]
        encoded = tokenizer([prompt] * len(own), own, truncation=True, max_length=longest)
        rows.append({**{name: list(values) for name, values in encoded.items()}, "labels": item.answer})
    return Chosen(rows, questions)


def _within(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, room: int, what: str, questions: Questions, left: bool
) -> list[str]:
    """Texts of so many tokens at most: longer ones lose their beginning (``left``) or their end."""
    spans = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
        "offset_mapping"
    ]
    over = [index for index, own in enumerate(spans) if len(own) > room]
    if over:
        logger.info("%s: %d of %d %s were cut to fit %d tokens", questions.source, len(over), len(texts), what, room)
    cut = list(texts)
    for index in over:
        own = spans[index]
        cut[index] = texts[index][own[-room][0] :] if left else texts[index][: own[room - 1][1]]
    return cut
