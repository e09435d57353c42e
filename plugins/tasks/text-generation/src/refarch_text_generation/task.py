"""The task: splits, prompts and targets, what the model writes, and the loss on every reference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refarch import Data
from refarch.errors import DataError, RunError
from refarch.tasks import (
    TEXT_KINDS,
    Features,
    ItemTask,
    Question,
    Rows,
    check_template,
    encode_pairs,
    fill,
    generate,
    mean_loss,
    pair_collator,
    pair_of,
    prompt_room,
)
from refarch_text_generation import OPTIONS
from refarch_text_generation.examples import Example, Examples, read_examples
from refarch_text_generation.metrics import measure

LOSS = "loss"
FIELD = "{source}"


@dataclass(frozen=True)
class Asked:
    """A split whose sources are asked: one row each, which has the first reference as its target.

    Attributes:
        rows: of the sources.
        pairs: of every source with each of its references, for the loss.
        references: the texts.
    """

    rows: Sequence[Features]
    pairs: Sequence[Features]
    references: Sequence[Sequence[str]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Features:
        return self.rows[index]


class TextGeneration(ItemTask[Examples]):
    """Write a text from a given one.

    Args:
        options: by name; those left out get their defaults.

    Raises:
        SpecError: a misspelt option or a wrong value.
        UsageError: the prompt is no template.
    """

    declared = OPTIONS
    formulation = "generative"
    metric = "rougeL"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        check_template(self.options["prompt"], ["source"])

    def given(self) -> dict[str, Examples]:
        """The sources and references of each split that there is."""
        return read_examples(self.options)

    def groups(self, examples: Examples) -> list[str]:
        """The sources."""
        return [" ".join(item.source.lower().split()) for item in examples.items]

    def model_arguments(self) -> dict[str, Any]:
        """None: the head is the backbone's own."""
        return {}

    def encode(self, tokenizer: PreTrainedTokenizerBase) -> Data:
        """The splits as prompts and targets: in training each reference is a row, elsewhere each source."""
        asked = {name: self._encode(part, tokenizer) for name, part in self.splits.items()}
        return Data(asked["train"].pairs, asked.get("validation"), asked["test"])

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
        """Pads each batch to its own longest row."""
        return pair_collator(tokenizer)

    def scores(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Rows, batch_size: int
    ) -> dict[str, float]:
        """The metrics of what the model writes, and its mean loss on the tokens of all references.

        Raises:
            RunError: the loss is not finite.
        """
        assert isinstance(rows, Asked)
        loss = mean_loss(model, rows.pairs, self.collator(tokenizer), batch_size)
        if not math.isfinite(loss):
            raise RunError("the model's outputs are not finite", "train with a lower learning rate, or in float32")
        texts = self._written(model, tokenizer, rows, batch_size)
        return {**self.metrics(texts, rows.references), LOSS: loss}

    def ask(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Question], batch_size: int
    ) -> list[dict[str, Any]]:
        """What the model writes for each text, in the task's prompt.

        Raises:
            DataError: a text is a pair.
        """
        if not all(isinstance(text, str) for text in texts):
            raise DataError("one text is written from another, not from a pair", "ask with one text each")
        items = [Example(str(text), ("",), f"text {number}") for number, text in enumerate(texts, start=1)]
        rows = self._encode(Examples(items, "the texts"), tokenizer)
        return [{"text": text} for text in self._written(model, tokenizer, rows, batch_size)]

    def _written(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Asked, batch_size: int
    ) -> list[str]:
        kind, own = TEXT_KINDS[self.formulation], self.options
        settings: dict[str, Any] = {"max_new_tokens": own["max_target"], "num_beams": own["beams"]}
        if own["beams"] > 1:
            settings["length_penalty"] = own["length_penalty"]
        if own["no_repeat_ngram"]:
            settings["no_repeat_ngram_size"] = own["no_repeat_ngram"]
        prompts = [pair_of(row, kind).prompt for row in rows.rows]
        return generate(model, tokenizer, prompts, batch_size, **settings)

    def metrics(self, predictions: Any, labels: Any) -> dict[str, float]:
        """ROUGE, BLEU and chrF, in percent.

        Args:
            predictions: one text a source.
            labels: the references of each source.
        """
        return measure(list(predictions), list(labels), self.options)

    def baselines(self) -> dict[str, float]:
        """``copy``: the score of writing the source itself, ``max_target`` words of it."""
        items = self.splits["test"].items
        copies = [" ".join(item.source.split()[: self.options["max_target"]]) for item in items]
        return {"copy": measure(copies, [item.references for item in items], self.options, [self.metric])[self.metric]}

    def _encode(self, examples: Examples, tokenizer: PreTrainedTokenizerBase) -> Asked:
        kind, own = TEXT_KINDS[self.formulation], self.options
        template = own["prompt"]
        if kind == "decoder" and template.endswith(FIELD):
            template += "\n"
        prompts = fill(
            tokenizer,
            template,
            [{"source": item.source} for item in examples.items],
            prompt_room(tokenizer, kind, own["max_length"], own["max_target"]),
            shorten="source",
            source=examples.source,
        )
        counts = [len(item.references) for item in examples.items]
        pairs = encode_pairs(
            tokenizer,
            [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)],
            [reference for item in examples.items for reference in item.references],
            kind,
            own["max_length"],
            own["max_target"],
            source=examples.source,
        )
        firsts = [0, *itertools.accumulate(counts)][:-1]
        return Asked([pairs[first] for first in firsts], pairs, [item.references for item in examples.items])
