"""The task: splits, windows, batches, and the tags of whole sentences put together from all windows and scored."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seqeval import metrics as seqeval
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, IOBES
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refarch import Data
from refarch.errors import DataError, RunError
from refarch.tasks import ItemTask, Question, Rows, collect, pair_collator
from refarch_token_classification import OPTIONS
from refarch_token_classification.schemes import OUTSIDE, parts
from refarch_token_classification.sentences import Sentences, read_corpus
from refarch_token_classification.windows import Windows, encode


class TokenClassification(ItemTask[Sentences]):
    """Find entities in sentences.

    Args:
        options: by name; those left out get their defaults.

    Raises:
        SpecError: a misspelt option or a wrong value.
    """

    declared = OPTIONS

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.names: Sequence[str] = []

    def given(self) -> Mapping[str, Sentences]:
        """The sentences of each split that the source has; their tags' names are noted."""
        corpus = read_corpus(self.options)
        self.names = corpus.names
        return corpus.splits

    def groups(self, examples: Sentences) -> list[str]:
        """The words."""
        return [" ".join(words).lower() for words in examples.words]

    def labels(self, examples: Sentences) -> list[str]:
        """Whether each sentence has an entity."""
        return ["some" if any(tag != OUTSIDE for tag in tags) else "none" for tags in examples.tags]

    def model_arguments(self) -> dict[str, Any]:
        """The number of tags and their names."""
        return {
            "num_labels": len(self.names),
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: number for number, name in enumerate(self.names)},
        }

    def encode(self, tokenizer: PreTrainedTokenizerBase) -> Data:
        """The splits as windows; see :mod:`refarch_token_classification.windows`."""
        windows = {
            name: encode(
                sentences,
                tokenizer,
                self.names,
                max_length=self.options["max_length"],
                overlap=self.options["overlap"],
                every_piece=self.options["pieces"] == "all",
            )
            for name, sentences in self.splits.items()
        }
        return Data(windows["train"], windows.get("validation"), windows["test"])

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
        """Pads each batch to its own longest window."""
        return pair_collator(tokenizer)

    def scores(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Rows, batch_size: int
    ) -> dict[str, float]:
        """The metrics of a split's sentences, each put together from its windows.

        Raises:
            RunError: logits are not finite.
        """
        assert isinstance(rows, Windows)
        tags = self._tagged(model, tokenizer, rows, batch_size, dict(enumerate(self.names)))
        return self.metrics(tags, rows.tags)

    def ask(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Question], batch_size: int
    ) -> list[dict[str, Any]]:
        """The words of each text (parted at blanks), a tag for each, and the entities that the tags make.

        Raises:
            DataError: a text is a pair, or the tokenizer does not tell which characters a token covers.
            RunError: logits are not finite.
        """
        if not all(isinstance(text, str) for text in texts):
            raise DataError("words of one text are tagged, not of a pair", "ask with one text each")
        words = [str(text).split() for text in texts]
        places = [f"text {number}" for number in range(1, len(words) + 1)]
        blank = [[OUTSIDE] * len(own) for own in words]
        names = {int(number): str(name) for number, name in (model.config.id2label or {}).items()}
        rows = encode(
            Sentences(words, blank, places, [None] * len(words), "the texts"),
            tokenizer,
            list(names.values()),
            max_length=self.options["max_length"],
            overlap=self.options["overlap"],
            every_piece=False,
        )
        tags = self._tagged(model, tokenizer, rows, batch_size, names)
        return [
            {"words": own, "tags": found, "entities": _entities(own, found)}
            for own, found in zip(words, tags, strict=True)
        ]

    def _tagged(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: Windows,
        batch_size: int,
        names: Mapping[int, str],
    ) -> list[list[str]]:
        """The tags of each sentence, put together from its windows."""
        tags = [[OUTSIDE] * len(true) for true in rows.tags]
        logits = collect(model, rows, self.collator(tokenizer), batch_size, ["logits"])["logits"]
        for index, window in enumerate(logits):
            row = rows[index]
            own = window[: len(row["words"])]  # t c
            if not bool(own.isfinite().all()):
                raise RunError("the model's outputs are not finite", "train with a lower learning rate, or in float32")
            for word, best in zip(row["words"], own.argmax(dim=-1).tolist(), strict=True):
                if word >= 0:
                    tags[row["sentence"]][word] = names[best]
        return tags

    def metrics(self, predictions: Any, labels: Any) -> dict[str, float]:
        """Precision, recall and F1 of entities, micro-averaged, and the accuracy of tags, as seqeval has them.

        Args:
            predictions: the tags of each sentence.
            labels: the true ones.
        """
        predicted, true = [list(tags) for tags in predictions], [list(tags) for tags in labels]
        how: dict[str, Any] = {"zero_division": 0}
        if self.options["strict"]:
            ends = any(parts(name)[0] in ("E", "S") for name in self.names)
            how |= {"mode": "strict", "scheme": IOBES if ends else IOB2}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no entity found is a score of zero, which seqeval also warns of
            return {
                "f1": float(seqeval.f1_score(true, predicted, **how)),
                "precision": float(seqeval.precision_score(true, predicted, **how)),
                "recall": float(seqeval.recall_score(true, predicted, **how)),
                "accuracy": float(seqeval.accuracy_score(true, predicted)),
            }

    def baselines(self) -> dict[str, float]:
        """``lookup``: the F1 of giving each word the tag that it has most often in the train split, and O to others."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for words, tags in zip(self.splits["train"].words, self.splits["train"].tags, strict=True):
            for word, tag in zip(words, tags, strict=True):
                counts[word][tag] += 1
        usual = {word: max(sorted(tags), key=tags.__getitem__) for word, tags in counts.items()}
        test = self.splits["test"]
        answers = [[usual.get(word, OUTSIDE) for word in words] for words in test.words]
        return {"lookup": self.metrics(answers, test.tags)["f1"]}


def _entities(words: Sequence[str], tags: Sequence[str]) -> list[dict[str, Any]]:
    """Entities as seqeval reads them from tags: kind, text, first word and the one after the last."""
    return [
        {"kind": kind, "text": " ".join(words[first : last + 1]), "start": first, "stop": last + 1}
        for kind, first, last in get_entities(list(tags))
    ]
