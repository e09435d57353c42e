"""Answers that the backbone writes: prompts of question and context, and what a written text answers."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from refarch.errors import UsageError
from refarch.tasks import Features, TextKind, encode_pairs, fill, prompt_room
from refarch_question_answering.examples import Questions
from refarch_question_answering.squad import normalized

PROMPTS: dict[str, str] = {
    "decoder": "Context: {context}\nQuestion: {question}\nAnswer: ",
    "encoder-decoder": "question: {question} context: {context}",
}
"""By the kind of backbone; the second is T5's own (Raffel et al. 2019, arXiv 1910.10683)."""


@dataclass(frozen=True)
class Written:
    """A split ready for training: one row a question."""

    rows: Sequence[Features]
    questions: Questions

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Features:
        return self.rows[index]


def check_prompt(prompt: str) -> None:
    """Refuse a template that is not one.

    Raises:
        UsageError: a brace stands alone, a field is unknown, or one is missing.
    """
    hint = "write {question} and {context} where they belong, and other braces twice: {{ }}"
    try:
        fields = [(name, spec, how) for _, name, spec, how in string.Formatter().parse(prompt) if name is not None]
    except ValueError as error:
        raise UsageError(f"the prompt {prompt!r} is no template: {error}", hint) from None
    if {name for name, _, _ in fields} != {"question", "context"} or any(spec or how for _, spec, how in fields):
        raise UsageError(f"the prompt {prompt!r} should have the fields {{question}} and {{context}}", hint)


def encode(
    questions: Questions, tokenizer: PreTrainedTokenizerBase, kind: TextKind, options: dict[str, Any]
) -> Written:
    """Questions as prompts, and their first answers as targets; a context that is too long loses its end."""
    longest, target = options["max_length"], options["max_answer"]
    prompts = fill(
        tokenizer,
        options["prompt"] or PROMPTS[kind],
        [{"question": item.text, "context": item.context} for item in questions.items],
        prompt_room(tokenizer, kind, longest, target),
        shorten="context",
        source=questions.source,
    )
    targets = [item.answers[0] if item.answers else options["no_answer"] for item in questions.items]
    rows = encode_pairs(tokenizer, prompts, targets, kind, longest, target, source=questions.source)
    return Written(rows, questions)


def answer(text: str, no_answer: str | None) -> str:
    """What a written text answers: its first line; nothing where that says that there is no answer."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return "" if no_answer is not None and normalized(line) == normalized(no_answer) else line
