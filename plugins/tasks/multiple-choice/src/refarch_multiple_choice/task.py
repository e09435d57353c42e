"""The task: splits, and each formulation's way of encoding and asking, measured alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refarch import Data
from refarch.errors import RunError, UsageError
from refarch.tasks import TEXT_KINDS, ItemTask, Rows, check_template, collect, log_likelihoods, pair_collator
from refarch_multiple_choice import OPTIONS
from refarch_multiple_choice.encoding import CONTEXT, ChoiceCollator, Chosen, Compared, chosen, compared
from refarch_multiple_choice.questions import Questions, read_questions


class MultipleChoice(ItemTask[Questions]):
    """Choose the right one of several answers.

    Args:
        options: by name; those left out get their defaults.

    Raises:
        SpecError: a misspelt option or a wrong value.
        UsageError: the prompt is no template, or has a context where there is none.
    """

    declared = OPTIONS
    formulation = "generative"
    metric = "accuracy"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        prompt = self.options["prompt"]
        if prompt is not None:
            check_template(prompt, ["question"], ["context"])
            if CONTEXT in prompt and self.options["context_column"] is None:
                raise UsageError(f"the prompt {prompt!r} has {CONTEXT}", "name the column with it: context_column=...")

    def given(self) -> dict[str, Questions]:
        """The questions of each split that the source has."""
        return read_questions(self.options)

    def groups(self, examples: Questions) -> list[str]:
        """What is asked, and about what."""
        return [" ".join(f"{item.context} {item.text}".lower().split()) for item in examples.items]

    def labels(self, examples: Questions) -> list[str]:
        """The right choices' numbers."""
        return [str(item.answer) for item in examples.items]

    def model_arguments(self) -> dict[str, Any]:
        """None: a backbone that writes has its own head, and the new one has one output whatever the choices."""
        return {}

    def encode(self, tokenizer: PreTrainedTokenizerBase) -> Data:
        """The splits with one row a question."""
        rows: dict[str, Compared | Chosen] = {}
        for name, part in self.splits.items():
            if self.formulation in TEXT_KINDS:
                rows[name] = compared(part, tokenizer, TEXT_KINDS[self.formulation], self.options)
            else:
                rows[name] = chosen(part, tokenizer, self.options)
        return Data(rows["train"], rows.get("validation"), rows["test"])

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
        """Pads each batch to its own longest row."""
        pairs = pair_collator(tokenizer)
        return pairs if self.formulation in TEXT_KINDS else ChoiceCollator(pairs)

    def scores(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Rows, batch_size: int
    ) -> dict[str, float]:
        """Accuracy and the loss on the right choices; of likelihoods also the accuracy where each is divided by the
        number of its choice's characters, ``acc_norm`` of the LM Evaluation Harness.

        Raises:
            RunError: the model's outputs are not finite.
        """
        if isinstance(rows, Chosen):
            return self._by_head(model, tokenizer, rows, batch_size)
        assert isinstance(rows, Compared)
        flat = [pair for pairs in rows.pairs for pair in pairs]
        found = iter(log_likelihoods(model, flat, batch_size, pair_collator(tokenizer).pad))
        own = [[next(found) for _ in pairs] for pairs in rows.pairs]
        totals = [[likelihood.total for likelihood in choices] for choices in own]
        norms = [
            [total / len(choice) for total, choice in zip(values, item.choices, strict=True)]
            for values, item in zip(totals, rows.questions.items, strict=True)
        ]
        answers = [item.answer for item in rows.questions.items]
        right = [choices[answer] for choices, answer in zip(own, answers, strict=True)]
        return {
            **self.metrics(totals, answers),
            "acc_norm": self.metrics(norms, answers)["accuracy"],
            "loss": -sum(likelihood.total for likelihood in right) / sum(likelihood.tokens for likelihood in right),
        }

    def metrics(self, predictions: Any, labels: Any) -> dict[str, float]:
        """The share of questions whose right choice has the highest value.

        Args:
            predictions: one value a choice, for each question.
            labels: the right choices' numbers.

        Raises:
            RunError: a value is not finite.
        """
        values = [np.asarray(own) for own in predictions]
        if not all(np.isfinite(own).all() for own in values):
            raise RunError("the model's outputs are not finite", "train with a lower learning rate, or in float32")
        right = [int(own.argmax()) == label for own, label in zip(values, labels, strict=True)]
        return {"accuracy": float(np.mean(right))}

    def baselines(self) -> dict[str, float]:
        """``random``: the accuracy to expect of guessing; ``majority``: of the number that is most often right in the
        train split.
        """
        counts = Counter(item.answer for item in self.splits["train"].items)
        usual = max(sorted(counts), key=counts.__getitem__)
        test = self.splits["test"].items
        return {
            "random": float(np.mean([1 / len(item.choices) for item in test])),
            "majority": float(np.mean([item.answer == usual for item in test])),
        }

    def _by_head(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Chosen, batch_size: int
    ) -> dict[str, float]:
        logits = collect(model, rows, self.collator(tokenizer), batch_size, ["logits"])["logits"]
        items = rows.questions.items
        own = [
            values[: len(item.choices)] for values, item in zip(logits, items, strict=True)
        ]  # without what was added
        found = self.metrics([values.numpy() for values in own], [item.answer for item in items])
        losses = [
            F.cross_entropy(values[None], torch.tensor([item.answer])) for values, item in zip(own, items, strict=True)
        ]
        return {**found, "loss": float(torch.stack(losses).mean())}
