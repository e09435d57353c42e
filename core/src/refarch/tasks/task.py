"""What a task plugin implements: data, preprocessing, metrics. The head and the loss are the transformers model's."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Question = str | tuple[str, str]
"""What a model can be asked: a text, or a pair of texts."""


class Rows(Protocol):
    """A split ready for training: a map-style dataset of feature dictionaries."""

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """Features of one example: ``input_ids`` (a sequence of tokens, or one a choice), ``labels`` ..."""


@dataclass(frozen=True)
class Data:
    """The splits of a task, encoded.

    Attributes:
        train: trained on.
        validation: evaluated on while training; may be empty.
        test: the score's split.
    """

    train: Rows
    validation: Rows | None
    test: Rows


class Task(abc.ABC):
    """One task with its options decided; the constructor gets them as keyword arguments.

    The pipeline sets ``formulation`` and ``metric`` and calls in this order ``read``, ``model_arguments``, ``encode``,
    ``check_model``, ``collator``, then ``metrics`` (or ``scores``) at each evaluation, and ``baselines`` once.
    """

    formulation: str = "plain"
    """The name of the formulation in which the task is put to the backbone."""
    metric: str = ""
    """The name of the metric that is the score."""

    @abc.abstractmethod
    def read(self, seed: int) -> None:
        """Read and check the data; make splits that depend on ``seed`` alone where the data has none.

        Raises:
            DataError: a file is missing or malformed; names the file and the line.
        """

    @abc.abstractmethod
    def model_arguments(self) -> dict[str, Any]:
        """Arguments for the auto class's ``from_pretrained``, such as ``num_labels`` and label names."""

    @abc.abstractmethod
    def encode(self, tokenizer: PreTrainedTokenizerBase) -> Data:
        """The splits as features."""

    @abc.abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
        """Makes a batch of tensors from a list of features."""

    @abc.abstractmethod
    def metrics(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """All metrics, from the model's predictions (logits) and the labels of a split; where the task defines
        ``scores``, from whatever that hands on.
        """

    def scores(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Rows, batch_size: int
    ) -> dict[str, float]:
        """All metrics of a split, for a task that asks the model in its own way: that generates, compares the
        likelihoods of choices, or puts the windows of one document together. Not called unless a task defines it; its
        building blocks are in :mod:`refarch.tasks.evaluation`.

        Args:
            model: in evaluation mode, on its device, without gradients.
            tokenizer: the one that ``encode`` got.
            rows: one of the splits that ``encode`` gave.
            batch_size: examples at a time.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no scores()")

    @property
    def asks_itself(self) -> bool:
        """Whether the task defines :meth:`scores`."""
        return type(self).scores is not Task.scores

    def ask(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Question], batch_size: int
    ) -> list[dict[str, Any]]:
        """What the model answers to new texts, for a task whose models are to be used after their run. Not called
        unless a task defines it. Works without ``read``: names of labels are those in the model's configuration.

        Args:
            model: in evaluation mode, on its device, without gradients.
            tokenizer: the backbone's.
            texts: one each, or a pair of texts for a task about pairs; encoded as the task's own examples are.
            batch_size: texts at a time.

        Returns:
            For each text an answer as plain data: ``label`` and ``scores``, ``text`` ...

        Raises:
            DataError: a text cannot be encoded.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no ask()")

    @property
    def answers_texts(self) -> bool:
        """Whether the task defines :meth:`ask`."""
        return type(self).ask is not Task.ask

    def check_model(self, model: PreTrainedModel) -> None:  # noqa: B027 - most tasks take any model that loads
        """Refuse a model that the task cannot be put to. Called once its techniques are attached, before it is trained;
        leaves it as it was.

        Raises:
            UsageError: with the reason.
        """

    def baselines(self) -> dict[str, float]:
        """The score's metric on the test split for trivial answers, by name."""
        return {}
