"""Text regression: the same data, splits and encoding, with a number to predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from refarch.errors import DataError, RunError
from refarch_text_classification.examples import Corpus, Examples
from refarch_text_classification.source import read_corpus
from refarch_text_classification.task import TextClassification


class TextRegression(TextClassification):
    """Predict a number from a text, or from a pair of texts (the STS benchmark).

    The head is trained on the labels as they are, by mean squared error.
    """

    metric = "pearson"

    def corpus(self) -> Corpus:
        """Read and check the data; labels must be finite numbers."""
        return read_corpus(self.options, numbers=True)

    def names(self, corpus: Corpus) -> list[str]:
        """None; refuses labels that are all the same.

        Raises:
            DataError: nothing could be learnt, and no correlation exists.
        """
        if len(set(corpus.train.labels)) < 2:
            raise DataError(
                f"{corpus.train.source}: all rows have the number {corpus.train.labels[0]}",
                "choose another label_column, or add rows",
            )
        return []

    def targets(self, examples: Examples, names: Sequence[str]) -> Sequence[float]:
        """The numbers."""
        return [float(label) for label in examples.labels]

    def labels(self, examples: Examples) -> Sequence[str]:
        """The same for all: splits do not depend on the numbers."""
        return [""] * len(examples)

    def model_arguments(self) -> dict[str, Any]:
        """One output."""
        return {"num_labels": 1, "problem_type": "regression"}

    def metrics(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Pearson's and Spearman's correlation (0 for constant predictions, which have none), and the root mean square
        error.

        Args:
            predictions: [examples, 1]; of a model with several outputs, the first one's.
            labels: [examples].

        Raises:
            RunError: predictions are not finite.
        """
        found = np.asarray(predictions[0] if isinstance(predictions, (tuple, list)) else predictions).reshape(-1)
        if not np.isfinite(found).all():
            raise RunError("the model's outputs are not finite", "train with a lower learning rate, or in float32")
        constant = np.ptp(found) == 0 or np.ptp(labels) == 0
        return {
            "pearson": 0.0 if constant else float(pearsonr(found, labels).statistic),
            "spearman": 0.0 if constant else float(spearmanr(found, labels).statistic),
            "rmse": float(np.sqrt(np.mean((found - labels) ** 2))),
        }

    def answer(self, logits: Tensor, names: Mapping[int, str]) -> dict[str, Any]:
        """The number."""
        return {"value": float(logits[0])}

    def baselines(self) -> dict[str, float]:
        """``mean``: the score of always answering the train rows' mean."""
        answer = float(np.mean(self.targets(self.splits.train, [])))
        labels = np.asarray(self.targets(self.splits.test, []))
        return {"mean": self.metrics(np.full((len(labels), 1), answer), labels)[self.metric]}
