"""Conversations as features: tokens, with labels on the answers alone.

A decoder reads a conversation as one sequence, all of whose answers are learnt at once. Its tokens are those that the
text has up to each place where an answer starts or ends, so that what stands before an answer is what the model is
asked with. An encoder-decoder reads what comes before an answer and writes that answer: an example for each.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from refarch.errors import DataError, UsageError
from refarch.tasks import IGNORED, Features, TextKind, encode_pairs, frame
from refarch_instruction_tuning.conversations import ANSWERS, Conversations
from refarch_instruction_tuning.template import Template, Written

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chats:
    """Encoded conversations.

    Attributes:
        rows: features, in the order of the conversations.
        prompts: of each conversation, the tokens that ask for its last answer; none where nothing is asked.
        answers: of each, the text of its last answer.
        places: of each, for messages.
    """

    rows: Sequence[Mapping[str, Any]]
    prompts: Sequence[Sequence[int]] = ()
    answers: Sequence[str] = ()
    places: Sequence[str] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        return self.rows[index]


def encode(
    conversations: Conversations, tokenizer: PreTrainedTokenizerBase, kind: TextKind, options: Mapping[str, Any]
) -> Chats:
    """A split as features; asked for its last answers where the option ``match`` says so.

    Raises:
        DataError: the template refuses a conversation, or no answer fits into the examples.
        UsageError: lengths leave no room for a prompt.
    """
    template = Template(tokenizer, options["template"], ended=kind == "decoder")
    longest = min(options["max_length"], tokenizer.model_max_length)
    if kind == "decoder":
        found, prompts = _decoded(conversations, tokenizer, template, longest)
        rows = _cut(found, longest, conversations.source)
    else:
        rows, prompts = _read_and_written(conversations, tokenizer, template, options)
    if options["match"] is None:
        return Chats(rows)
    return Chats(
        rows,
        _asked(prompts, longest - options["max_answer"], conversations.source) if kind == "decoder" else prompts,
        [next(m["content"] for m in reversed(messages) if m["role"] == ANSWERS) for messages in conversations.messages],
        conversations.places,
    )


def tokens(tokenizer: PreTrainedTokenizerBase, written: Sequence[Written], before: Sequence[int]) -> list[Features]:
    """Texts as ``input_ids`` and ``labels``, whole.

    Args:
        tokenizer: the backbone's.
        written: texts, and where their answers are.
        before: special tokens that every sequence begins with.
    """
    cuts = [[place for span in one.answers for place in span] for one in written]
    texts = [one.text[:cut] for one, places in zip(written, cuts, strict=True) for cut in places]
    whole = iter(_plain(tokenizer, texts))
    features: list[Features] = []
    for one, places in zip(written, cuts, strict=True):
        ids, labels, last, start = list(before), [IGNORED] * len(before), list[int](), 0
        for number, place in enumerate(places):
            so_far = next(whole)
            # Where the tokenizer joins characters across the place, each side keeps tokens of its own.
            joined = so_far[: len(last)] != last
            own = _plain(tokenizer, [one.text[start:place]])[0] if joined else so_far[len(last) :]
            ids += own
            labels += own if number % 2 else [IGNORED] * len(own)
            last, start = so_far, place
        labels[:1] = [IGNORED] * len(labels[:1])  # nothing stands before it that it could be predicted from
        features.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return features


def _plain(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]


def _decoded(
    conversations: Conversations, tokenizer: PreTrainedTokenizerBase, template: Template, longest: int
) -> tuple[list[Features], list[list[int]]]:
    """The examples of a decoder, not cut yet, and what stands before each conversation's last answer."""
    before = frame(tokenizer).before if template.plain else []
    both = zip(conversations.messages, conversations.places, strict=True)
    written = [template.answers(messages, place) for messages, place in both]
    features = tokens(tokenizer, [one for parts in written for one in parts], before)
    prompts, end = [], 0
    for parts in written:
        end += len(parts)
        labels = features[end - 1]["labels"]
        first = max((place for place, label in enumerate(labels) if label == IGNORED), default=-1)
        prompts.append(features[end - 1]["input_ids"][: first + 1])
    return features, prompts


def _cut(features: list[Features], longest: int, source: str) -> list[Features]:
    """Examples of at most so many tokens; those without a token to learn are left out."""
    fitted = [{name: values[:longest] for name, values in row.items()} for row in features]
    rows = [row for row in fitted if any(label != IGNORED for label in row["labels"])]
    shorter = sum(len(row["input_ids"]) > longest for row in features)
    if shorter:
        logger.info("%s: %d of %d examples were cut to fit %d tokens", source, shorter, len(features), longest)
    if len(rows) < len(features):
        logger.warning(
            "%s: %d of %d examples were left out: their answers begin after %d tokens (max_length)",
            source,
            len(features) - len(rows),
            len(features),
            longest,
        )
    if not rows:
        raise DataError(f"{source}: no answer begins within {longest} tokens", "raise max_length")
    return rows


def _asked(prompts: list[list[int]], room: int, source: str) -> list[list[int]]:
    """Prompts of at most so many tokens: their ends."""
    if room < 1:
        raise UsageError("max_answer leaves no room for a prompt within max_length", "raise max_length")
    longer = sum(len(prompt) > room for prompt in prompts)
    if longer:
        logger.info("%s: %d of %d prompts lost their beginning, to fit %d tokens", source, longer, len(prompts), room)
    return [prompt[-room:] for prompt in prompts]


def _read_and_written(
    conversations: Conversations, tokenizer: PreTrainedTokenizerBase, template: Template, options: Mapping[str, Any]
) -> tuple[list[Features], list[list[int]]]:
    """The examples of an encoder-decoder, and the prompt for each conversation's last answer."""
    prompts, answers, last, alone = [], [], [], 0
    for messages, place in zip(conversations.messages, conversations.places, strict=True):
        turns = [number for number, message in enumerate(messages) if message["role"] == ANSWERS]
        if turns[-1] == 0:
            raise DataError(f"{place}: nothing is asked, so an encoder has nothing to read", "remove the row")
        alone += turns[0] == 0
        for number in turns:
            if number:
                prompts.append(template.write(messages[:number], place, ask=True))
                answers.append(str(messages[number]["content"]))
        last.append(len(prompts) - 1)
    if alone:
        logger.info("%s: %d conversations begin with an answer, which was left out", conversations.source, alone)
    rows = encode_pairs(
        tokenizer,
        prompts,
        answers,
        "encoder-decoder",
        options["max_length"],
        options["max_answer"],
        cut="left",
        special=template.plain,
        source=conversations.source,
    )
    return rows, [rows[index]["input_ids"] for index in last]
