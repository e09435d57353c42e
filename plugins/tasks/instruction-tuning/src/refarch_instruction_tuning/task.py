"""The task: splits, features, packed rows, and the loss on the answers of a split."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refarch import Data
from refarch.errors import DataError, RunError, UsageError
from refarch.tasks import IGNORED, TEXT_KINDS, ItemTask, Question, Rows, generate, mean_loss, pair_collator
from refarch_instruction_tuning import OPTIONS, answers
from refarch_instruction_tuning.conversations import ANSWERS, Conversations, read_conversations
from refarch_instruction_tuning.encoding import Chats, encode
from refarch_instruction_tuning.packing import PackedCollator, check_packing, pack

MATCHES = "exact_match"


class InstructionTuning(ItemTask[Conversations]):
    """Learn to answer from conversations.

    Args:
        options: by name; those left out get their defaults.

    Raises:
        SpecError: a misspelt option or a wrong value.
    """

    declared = OPTIONS
    formulation = "generative"
    metric = "loss"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.examples: Chats | None = None
        self.tested: Chats | None = None
        self.vocabulary = 0
        self.mask = torch.bool

    def __getstate__(self) -> dict[str, Any]:
        """What was read, without what :meth:`encode` has made of it: tasks that have read the same are equal."""
        return {**self.__dict__, "examples": None, "tested": None, "vocabulary": 0, "mask": None}

    def given(self) -> dict[str, Conversations]:
        """The conversations of each split that the source has.

        Raises:
            UsageError: the options do not fit the score or the backbone.
        """
        if self.metric == MATCHES and self.options["match"] is None:
            raise UsageError("the score is of matching answers, but match is not set", "set task.match")
        if self.options["packing"] and TEXT_KINDS[self.formulation] != "decoder":
            raise UsageError(
                "examples are packed for decoders alone: an encoder-decoder's attention between its stacks cannot keep"
                " them apart",
                "set task.packing=false",
            )
        return read_conversations(self.options)

    def groups(self, examples: Conversations) -> list[str]:
        """What is asked."""
        return [examples.asked(index) for index in range(len(examples))]

    def model_arguments(self) -> dict[str, Any]:
        """None: the language modelling head is the backbone's own."""
        return {}

    def encode(self, tokenizer: PreTrainedTokenizerBase) -> Data:
        """The splits as features; the train split packed if that is asked for."""
        kind = TEXT_KINDS[self.formulation]
        found = {name: encode(part, tokenizer, kind, self.options) for name, part in self.splits.items()}
        self.examples, self.tested, self.vocabulary = found["train"], found["test"], len(tokenizer)
        for name in ("validation", "test") if self.options["match"] == "number" else ():
            _require_numbers(found.get(name))
        train: Rows = found["train"]
        if self.options["packing"]:
            train = Chats(pack(found["train"].rows, min(self.options["max_length"], tokenizer.model_max_length)))
        return Data(train, found.get("validation"), found["test"])

    def check_model(self, model: PreTrainedModel) -> None:
        """Refuse to pack for a model that lets examples see each other; find the mask that keeps them apart."""
        if self.options["packing"]:
            assert self.examples is not None
            rows = self.examples.rows
            self.mask = check_packing(model, rows, max(len(row["input_ids"]) for row in rows))

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
        """Pads each batch to its own longest row."""
        pairs = pair_collator(tokenizer)
        return PackedCollator(pairs, self.mask) if self.options["packing"] else pairs

    def scores(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Rows, batch_size: int
    ) -> dict[str, float]:
        """The loss, averaged over the tokens of all answers, its perplexity, and how many last answers are right.

        Raises:
            RunError: the loss is not finite.
        """
        assert isinstance(rows, Chats)
        loss = mean_loss(model, rows, pair_collator(tokenizer), batch_size)
        if not math.isfinite(loss):
            raise RunError("the model's outputs are not finite", "train with a lower learning rate, or in float32")
        found = {"loss": loss, "perplexity": _perplexity(loss)}
        if rows.prompts:
            longest = self.options["max_answer"]
            texts = generate(
                model,
                tokenizer,
                rows.prompts,
                batch_size,
                max_new_tokens=longest,
                **_ends(model, tokenizer, self.tested),
            )
            found |= self.metrics(texts, rows.answers)
        return found

    def ask(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Question], batch_size: int
    ) -> list[dict[str, Any]]:
        """The answer to each text, asked by a user in a conversation of its own.

        Raises:
            DataError: a text is a pair.
        """
        if not all(isinstance(text, str) for text in texts):
            raise DataError("a conversation begins with one text, not with a pair", "ask with one text each")
        messages = [
            [{"role": "user", "content": str(text)}, {"role": ANSWERS, "content": "."}]  # what is asked comes before it
            for text in texts
        ]
        places = [f"text {number}" for number in range(1, len(messages) + 1)]
        # Training without asking needs no room for an answer of its own; asking leaves at least half to what is asked.
        most = min(self.options["max_length"], tokenizer.model_max_length) // 2
        longest = max(1, min(self.options["max_answer"], most))
        asked = encode(
            Conversations(messages, places, "the texts"),
            tokenizer,
            TEXT_KINDS[self.formulation],
            {**self.options, "match": "text", "max_answer": longest},
        )
        ends = _ends(model, tokenizer, asked)
        return [
            {"text": text}
            for text in generate(model, tokenizer, asked.prompts, batch_size, max_new_tokens=longest, **ends)
        ]

    def metrics(self, predictions: Any, labels: Any) -> dict[str, float]:
        """The share of answers that are right: of the same final number, or of the same text.

        Args:
            predictions: an answer each conversation.
            labels: the true ones.
        """
        match = str(self.options["match"])
        right = [answers.same(written, true, match) for written, true in zip(predictions, labels, strict=True)]
        return {MATCHES: sum(right) / len(right)}

    def baselines(self) -> dict[str, float]:
        """Of the loss, ``unigram``: giving every token its frequency in the train split's answers (with one more of
        each). Of matching answers, ``usual``: always giving the most frequent one.
        """
        assert self.examples is not None and self.tested is not None
        if self.metric == MATCHES:
            known = [_key(text, self.options["match"]) for text in self.examples.answers]
            usual = Counter(known).most_common(1)[0][0]
            true = [_key(text, self.options["match"]) for text in self.tested.answers]
            return {"usual": sum(answer == usual for answer in true) / len(true)}
        counts = Counter(_learnt(self.examples))
        total = sum(counts.values()) + self.vocabulary
        tested = _learnt(self.tested)
        return {"unigram": -sum(math.log((counts[token] + 1) / total) for token in tested) / len(tested)}


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tested: Chats | None) -> dict[str, Any]:
    """The tokens that end an answer: the model's own, and the one that the template ends answers with."""
    own = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = set(own if isinstance(own, list) else [own]) | {tokenizer.eos_token_id}
    added = set(tokenizer.get_added_vocab().values())
    if tested is not None:
        ends |= {row["labels"][-1] for row in tested.rows} & added
    return {"eos_token_id": sorted(int(end) for end in ends if end is not None)}


def _learnt(chats: Chats) -> list[int]:
    return [label for row in chats.rows for label in row["labels"] if label != IGNORED]


def _key(answer: str, match: str) -> Any:
    return answers.number(answer) if match == "number" else " ".join(answer.split())


def _require_numbers(chats: Chats | None) -> None:
    """Refuse answers that hold no number to be compared.

    Raises:
        DataError: with the line.
    """
    for answer, place in zip(chats.answers, chats.places, strict=True) if chats is not None else ():
        if answers.number(answer) is None:
            raise DataError(
                f"{place}: the last answer holds no number to compare", "set task.match=text, or correct it"
            )


def _perplexity(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
