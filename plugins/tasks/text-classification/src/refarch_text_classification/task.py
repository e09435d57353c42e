"""The task: splits, encoding, batches and metrics. A preset overrides :meth:`TextClassification.corpus`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from refarch import Data, Option
from refarch.errors import DataError, RunError
from refarch.tasks import ItemTask, Question, collect
from refarch_text_classification.examples import Corpus, Examples, label_names, numbered
from refarch_text_classification.options import OPTIONS
from refarch_text_classification.source import read_corpus

logger = logging.getLogger(__name__)


class Splits(dict[str, Examples]):
    """The examples of each split by its name.

    Args:
        parts: by name; ``train`` and ``test`` are there.
        names: the labels' names in the order of their numbers.
    """

    def __init__(self, parts: Mapping[str, Examples], names: Sequence[str]) -> None:
        super().__init__(parts)
        self.names = names
        self.train, self.validation, self.test = self["train"], self.get("validation"), self["test"]


class TextClassification(ItemTask[Examples]):
    """Classify texts.

    A preset with data of its own subclasses this, declares its options and overrides :meth:`corpus`, and :meth:`group`
    where examples belong together.

    Args:
        options: by name; those left out get their defaults.

    Raises:
        SpecError: a misspelt option or a wrong value.
    """

    declared: ClassVar[tuple[Option, ...]] = OPTIONS
    metric = "accuracy"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._names: Sequence[str] = ()

    def corpus(self) -> Corpus:
        """Read and check the data.

        Raises:
            DataError: a file is missing or malformed; names the file and the line.
        """
        return read_corpus(self.options)

    def group(self, text: str) -> Hashable:
        """Examples with equal groups are never parted by a split that is made here: those of the same text."""
        return " ".join(text.lower().split())

    def groups(self, examples: Examples) -> list[Hashable]:
        """The group of each."""
        return [self.group(examples.whole(index)) for index in range(len(examples))]

    def given(self) -> dict[str, Examples]:
        """The texts of each split that there is; their labels' names are noted."""
        corpus = self.corpus()
        self._names = self.names(corpus)
        for part in corpus.given.values():
            self.targets(part, self._names)  # before the limits, which could hide a row with an unknown label
        return corpus.given

    def parted(self, given: Mapping[str, Examples], seed: int) -> Splits:
        """The splits to work with, and the labels' names."""
        return Splits(super().parted(given, seed), self._names)

    @property
    def splits(self) -> Splits:
        """The splits, once they are read."""
        found = super().splits
        assert isinstance(found, Splits)
        return found

    def names(self, corpus: Corpus) -> list[str]:
        """The labels' names, in the order of their numbers.

        Raises:
            DataError: there are fewer than two.
        """
        names = list(corpus.names) if corpus.names is not None else label_names(corpus.train)
        if len(names) < 2:
            raise DataError(
                f"{corpus.train.source} declares {len(names)} label; classification needs two at least",
                "choose another label_column",
            )
        return names

    def targets(self, examples: Examples, names: Sequence[str]) -> Sequence[float]:
        """What the model is to predict for each example: its label's number.

        Raises:
            DataError: a label is none of the names, with its line.
        """
        return numbered(examples, names)

    def model_arguments(self) -> dict[str, Any]:
        """The number of labels and their names."""
        names = self.splits.names
        return {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
            "problem_type": "single_label_classification",
        }

    def encode(self, tokenizer: PreTrainedTokenizerBase) -> Data:
        """The splits as ``input_ids``, ``attention_mask`` ... and ``labels``; not padded yet.

        A tokenizer without a pad token (GPT-2, Llama) gets its end-of-text token as one.
        """
        _ensure_pad_token(tokenizer)
        data = self.splits
        validation = None if data.validation is None else self._encode(data.validation, tokenizer)
        return Data(self._encode(data.train, tokenizer), validation, self._encode(data.test, tokenizer))

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
        """Pads each batch to its own longest text."""
        _ensure_pad_token(tokenizer)
        pad = DataCollatorWithPadding(tokenizer)
        return partial(_batch, pad)  # not a closure: workers of a data loader must be able to unpickle it

    def metrics(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Accuracy, macro F1 (over the labels that occur or are predicted), Matthews' correlation and, of two labels,
        the F1 of the second one (as GLUE scores paraphrases).

        Args:
            predictions: logits, [examples, labels]; of a model with several outputs, the first one's.
            labels: [examples].

        Raises:
            RunError: logits are not finite.
        """
        logits = np.asarray(predictions[0] if isinstance(predictions, (tuple, list)) else predictions)  # n c
        if not np.isfinite(logits).all():
            raise RunError("the model's outputs are not finite", "train with a lower learning rate, or in float32")
        best = logits.argmax(axis=-1)  # n
        found = {
            "accuracy": float(accuracy_score(labels, best)),
            "macro_f1": float(f1_score(labels, best, average="macro", zero_division=0)),
            "matthews": float(matthews_corrcoef(labels, best)),
        }
        if logits.shape[-1] == 2:
            found["f1"] = float(f1_score(labels, best, pos_label=1, zero_division=0))
        return found

    def baselines(self) -> dict[str, float]:
        """``majority``: the score on the test split of always answering the most frequent label of the train split."""
        names = self.splits.names
        counts = Counter(self.splits.train.labels)
        majority = max(sorted(counts), key=counts.__getitem__)
        labels = np.asarray(self.targets(self.splits.test, names))
        answer = np.tile(np.eye(len(names))[list(names).index(majority)], (len(labels), 1))
        return {"majority": self.metrics(answer, labels)[self.metric]}

    def labels(self, examples: Examples) -> Sequence[str]:
        """The labels."""
        return examples.labels

    def ask(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Question], batch_size: int
    ) -> list[dict[str, Any]]:
        """The label of each text, and the probability of every label.

        Raises:
            DataError: the tokenizer finds nothing in a text, or only some texts are pairs.
        """
        _ensure_pad_token(tokenizer)
        pairs = [text for text in texts if not isinstance(text, str)]
        if len(pairs) not in (0, len(texts)):
            raise DataError("some texts are pairs and some are not", "ask with one text each, or with two each")
        first = [pair[0] for pair in pairs] if pairs else [str(text) for text in texts]
        rows = self._features(first, [pair[1] for pair in pairs] or None, tokenizer)
        empty = [number for number, row in enumerate(rows, start=1) if not row["input_ids"]]
        if empty:
            raise DataError(f"text {empty[0]}: the tokenizer finds nothing in this text", "leave it out")
        logits = collect(model, rows, self.collator(tokenizer), batch_size, ["logits"])["logits"]
        names = {int(number): str(name) for number, name in (model.config.id2label or {}).items()}
        return [self.answer(row, names) for row in logits]

    def answer(self, logits: Tensor, names: Mapping[int, str]) -> dict[str, Any]:
        """One text's answer.

        Args:
            logits: [labels].
            names: of the labels by number.
        """
        probabilities = logits.softmax(dim=-1).tolist()
        return {
            "label": names[int(logits.argmax())],
            "scores": {names[number]: value for number, value in enumerate(probabilities)},
        }

    def _encode(self, examples: Examples, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
        longest = self._longest(tokenizer)
        pairs = None if examples.pairs is None else list(examples.pairs)
        labels = self.targets(examples, self.splits.names)
        features = self._features(list(examples.texts), pairs, tokenizer)
        rows = [{**row, "labels": label} for row, label in zip(features, labels, strict=True)]
        for index, row in enumerate(rows):
            if not row["input_ids"]:
                raise DataError(f"{examples.where(index)}: the tokenizer finds nothing in this text", "remove the row")
        full = sum(len(row["input_ids"]) >= longest for row in rows)
        if full:
            logger.info(
                "%s: %d of %d texts fill max_length=%d tokens or were cut", examples.source, full, len(rows), longest
            )
        return rows

    def _features(
        self, texts: list[str], pairs: list[str] | None, tokenizer: PreTrainedTokenizerBase
    ) -> list[dict[str, Any]]:
        encoded = tokenizer(texts, pairs, truncation=True, max_length=self._longest(tokenizer))
        return [{key: values[row] for key, values in encoded.items()} for row in range(len(texts))]

    def _longest(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return int(min(self.options["max_length"], tokenizer.model_max_length))


def _batch(pad: DataCollatorWithPadding, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return dict(pad([dict(feature) for feature in features]))


def _ensure_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token is not None:
        return
    if tokenizer.eos_token is None:
        raise DataError(
            "this model's tokenizer has neither a pad token nor an end-of-text token",
            "set one in its tokenizer_config.json",
        )
    tokenizer.pad_token = tokenizer.eos_token
