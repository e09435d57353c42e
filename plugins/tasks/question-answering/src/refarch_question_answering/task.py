"""The task: splits, and each formulation's way of encoding and asking, measured alike."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refarch import Data
from refarch.errors import RunError
from refarch.tasks import TEXT_KINDS, ItemTask, PairCollator, Rows, collect, generate, pair_collator, pair_of
from refarch_question_answering import OPTIONS, squad, windows, written
from refarch_question_answering.examples import Question, Questions, read_questions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpanCollator:
    """Pads windows, and gives where answers start and end as tensors."""

    pairs: PairCollator

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """``input_ids`` and ``attention_mask`` [b, t], ``start_positions`` and ``end_positions`` [b]."""
        places = {name: torch.tensor([row[name] for row in rows]) for name in ("start_positions", "end_positions")}
        return {**self.pairs(rows), **places}


class QuestionAnswering(ItemTask[Questions]):
    """Answer questions about a text.

    Args:
        options: by name; those left out get their defaults.

    Raises:
        SpecError: a misspelt option or a wrong value.
        UsageError: the prompt is no template.
    """

    declared = OPTIONS
    formulation = "extractive"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.options["prompt"] is not None:
            written.check_prompt(self.options["prompt"])
        self.unanswerable = bool(self.options["unanswerable"])

    def given(self) -> dict[str, Questions]:
        """The questions of each split that the source has."""
        found = read_questions(self.options, located=self.formulation not in TEXT_KINDS)
        self._decide([item for part in found.values() for item in part.items], found["train"].source)
        return found

    def groups(self, examples: Questions) -> list[str]:
        """The texts that are asked about."""
        return [item.context for item in examples.items]

    def labels(self, examples: Questions) -> list[str]:
        """Whether each question has an answer."""
        return ["answer" if item.answers else "none" for item in examples.items]

    def _decide(self, items: Sequence[Question], source: str) -> None:
        """Whether questions may have no answer: as the option says, or as the questions of all splits show."""
        without = sum(not item.answers for item in items)
        if self.options["unanswerable"] is None:
            self.unanswerable = without > 0
        elif without and not self.unanswerable:
            logger.info(
                "%s: %d of %d questions (all splits) have no answer, but unanswerable is false: whatever is answered to"
                " them counts as wrong",
                source,
                without,
                len(items),
            )

    def model_arguments(self) -> dict[str, Any]:
        """Two outputs a token, for an answer's start and its end; nothing where text is written."""
        return {} if self.formulation in TEXT_KINDS else {"num_labels": 2}

    def encode(self, tokenizer: PreTrainedTokenizerBase) -> Data:
        """The splits as windows, or as prompts and answers."""
        rows: dict[str, Any] = {}
        if self.formulation in TEXT_KINDS:
            kind = TEXT_KINDS[self.formulation]
            rows = {name: written.encode(part, tokenizer, kind, self.options) for name, part in self.splits.items()}
        else:
            own = self.options
            lengths = windows.fitted(tokenizer, own["max_length"], own["stride"], own["max_question"])
            for name, part in self.splits.items():
                rows[name] = windows.encode(part, tokenizer, lengths, asked=name != "train")
        return Data(rows["train"], rows.get("validation"), rows["test"])

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
        """Pads each batch to its own longest row."""
        pairs = pair_collator(tokenizer)
        return pairs if self.formulation in TEXT_KINDS else SpanCollator(pairs)

    def scores(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Rows, batch_size: int
    ) -> dict[str, float]:
        """The metrics of a split's questions.

        Raises:
            RunError: logits are not finite.
        """
        assert isinstance(rows, (windows.Windows, written.Written))
        if isinstance(rows, windows.Windows):
            answers = self._find(model, tokenizer, rows, batch_size)
        else:
            answers = self._write(model, tokenizer, rows, batch_size)
        return self.metrics(answers, [item.answers for item in rows.questions.items])

    def metrics(self, predictions: Any, labels: Any) -> dict[str, float]:
        """Exact match and F1 in percent, as SQuAD's official scripts have them.

        Args:
            predictions: one answer a question; empty for none.
            labels: the right answers of each question.
        """
        return squad.score(list(predictions), list(labels), self.unanswerable)

    def baselines(self) -> dict[str, float]:
        """``sentence``: the F1 of answering with the sentence that shares most words with the question; ``nothing``:
        of never answering, where there may be no answer.
        """
        items = self.splits["test"].items
        true = [item.answers for item in items]
        found = {"sentence": self.metrics([_sentence(item.text, item.context) for item in items], true)["f1"]}
        if self.unanswerable:
            found["nothing"] = self.metrics([""] * len(items), true)["f1"]
        return found

    def _find(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: windows.Windows, batch_size: int
    ) -> list[str]:
        found = collect(model, rows, self.collator(tokenizer), batch_size, ["start_logits", "end_logits"])
        logits = {}
        for name, values in found.items():
            own = [value[: len(row["input_ids"])].numpy() for value, row in zip(values, rows.rows, strict=True)]
            if not all(bool(value.isfinite().all()) for value in values):
                raise RunError("the model's outputs are not finite", "train with a lower learning rate, or in float32")
            logits[name] = own
        return windows.answers(
            rows,
            logits["start_logits"],
            logits["end_logits"],
            longest=self.options["max_answer"],
            n_best=self.options["n_best"],
            threshold=self.options["threshold"] if self.unanswerable else None,
        )

    def _write(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Rows, batch_size: int
    ) -> list[str]:
        kind = TEXT_KINDS[self.formulation]
        prompts = [pair_of(rows[index], kind).prompt for index in range(len(rows))]
        texts = generate(model, tokenizer, prompts, batch_size, max_new_tokens=self.options["max_answer"])
        no_answer = self.options["no_answer"] if self.unanswerable else None
        return [written.answer(text, no_answer) for text in texts]


def _sentence(question: str, context: str) -> str:
    asked = set(squad.normalized(question).split())
    sentences = re.split(r"(?<=[.!?])\s+", context)
    return max(sentences, key=lambda sentence: len(asked & set(squad.normalized(sentence).split())))
