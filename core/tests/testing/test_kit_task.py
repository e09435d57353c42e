"""The task checks catch wrong tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from refarch.architecture import Option, TaskSpec
from refarch.tasks import Data, Task
from refarch.testing import NotApplicable, TaskConformance
from refarch.testing.checks.task import TASK_CHECKS, TaskCase
from refarch.testing.tokenizer import tiny_tokenizer


class Right(Task):
    """Tell even numbers from odd ones."""

    def __init__(self, count: int) -> None:
        self.count = count

    def read(self, seed: int) -> None:
        self.order = np.random.default_rng(seed).permutation(self.count)

    def model_arguments(self) -> dict[str, Any]:
        return {"num_labels": 2}

    def row(self, number: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        text = f"is the number {number} even? " * 3
        ids = tokenizer(text, truncation=True)["input_ids"]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": int(number % 2)}

    def encode(self, tokenizer: PreTrainedTokenizerBase) -> Data:
        rows = [self.row(int(number), tokenizer) for number in self.order]
        return Data(rows[: len(rows) // 2], None, rows[len(rows) // 2 :])

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
        return lambda rows: dict(tokenizer.pad([dict(row) for row in rows], return_tensors="pt"))

    def metrics(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return {"accuracy": float((predictions.argmax(axis=-1) == labels).mean())}

    def baselines(self) -> dict[str, float]:
        return {"even": 0.5}


class Unseeded(Right):
    """Ignores the seed."""

    def read(self, seed: int) -> None:
        self.order = np.random.default_rng().permutation(self.count)


class GlobalGenerator(Right):
    """Shuffles with numpy's global generator."""

    def read(self, seed: int) -> None:
        self.order = np.random.permutation(self.count)


class LabelsFromOne(Right):
    """Counts labels from one."""

    def row(self, number: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        row = super().row(number, tokenizer)
        return {**row, "labels": row["labels"] + 1}


class Sorted(Right):
    """All test labels are the same."""

    def row(self, number: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        return {**super().row(number, tokenizer), "labels": 0}


class TooLong(Right):
    """Does not truncate."""

    def row(self, number: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        ids = tokenizer(f"is the number {number} even? " * 9)["input_ids"]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": int(number % 2)}


class LongChoice(TooLong):
    """Has a sequence for each of two choices, of which it truncates one."""

    def row(self, number: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        rows = [cls.row(self, number, tokenizer) for cls in (Right, TooLong)]
        return {name: [row[name] for row in rows] for name in rows[0]}


class Lists(Right):
    """Gives lists in place of tensors."""

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
        return lambda rows: {name: [row[name] for row in rows] for name in rows[0]}


class WrongMetric(Right):
    """Counts errors."""

    def metrics(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return {"accuracy": float((predictions.argmax(axis=-1) != labels).mean())}


class OtherMetric(Right):
    """Gives a metric of another name."""

    def metrics(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return {"f1": 1.0}


class WrongBaseline(Right):
    """Gives a baseline in per cent."""

    def baselines(self) -> dict[str, float]:
        return {"even": 50.0}


def spec(task: type[Task]) -> TaskSpec:
    return TaskSpec(
        name="even",
        summary="Tell even numbers from odd ones",
        implementation=f"{__name__}:{task.__name__}",
        auto_class="AutoModelForSequenceClassification",
        new_head=True,
        metric="accuracy",
        options=(Option(name="count", type="integer", default=40, help="how many numbers"),),
    )


def failing(task: type[Task]) -> dict[str, str]:
    case, found = TaskCase(spec(task), dict), {}
    for check in TASK_CHECKS.values():
        try:
            check.function(case)
        except NotApplicable:
            continue
        except Exception as error:
            found[check.name] = str(error)
    return found


WRONG = [
    (Unseeded, "same_seed_same_data", "differs between two readings"),
    (GlobalGenerator, "same_seed_same_data", "differs between two readings"),
    (LabelsFromOne, "labels_in_range", "labels [2]"),
    (Sorted, "labels_in_range", "is it sorted?"),
    (TooLong, "reads_and_encodes", "truncate"),
    (LongChoice, "reads_and_encodes", "truncate"),
    (Lists, "collator_gives_tensors", "as list, not as a tensor"),
    (WrongMetric, "perfect_predictions_are_perfect", "0.0 for perfect predictions"),
    (OtherMetric, "perfect_predictions_are_perfect", "the spec's metric is 'accuracy'"),
    (WrongBaseline, "baselines_in_range", "better than perfect"),
]


@pytest.mark.parametrize(("task", "check", "message"), WRONG, ids=[w[0].__name__ for w in WRONG])
def test_the_kit_catches(task: type[Task], check: str, message: str) -> None:
    found = failing(task)
    assert check in found, f"not caught; what failed: {found}"
    assert message in found[check]


def test_different_texts_have_different_tokens() -> None:
    tokenizer = tiny_tokenizer()
    one, other = (torch.tensor(tokenizer(text)["input_ids"]) for text in ("a good film", "a wood film"))
    assert one.shape == other.shape and not torch.equal(one, other)
    assert tokenizer.pad_token_id == 0


class TestRight(TaskConformance):
    task = spec(Right)
    options = {"count": 60}
