"""Checks of a task: data, batches, labels, metrics."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refarch.architecture import Formulation, TaskSpec
from refarch.plugins.discovery import Kind
from refarch.plugins.registry import default_registry
from refarch.tasks.making import make_task
from refarch.tasks.task import Data, Rows, Task
from refarch.testing.case import Check, NotApplicable, collect
from refarch.testing.checks.plugin import light_import, survives_json
from refarch.testing.models import Tiny, all_tiny, all_with_head
from refarch.testing.tokenizer import tiny_tokenizer

SEED = 3
ROWS = 64
"""How many rows of a split are looked at."""
LABELS = ("labels", "start_positions")
"""What transformers' models call their labels; a batch has one of these."""
MODELS = 4
"""How many families' tiny models of each kind of backbone are tried."""


@dataclass(frozen=True)
class TaskCase:
    """A task with its options.

    Attributes:
        task: an installed task's name, or a spec.
        prepare: gives the options; may write the files that they name.
        way: the name of one of the task's formulations; its first when left out.
    """

    task: str | TaskSpec
    prepare: Callable[[], dict[str, Any]]
    way: str = ""

    @property
    def label(self) -> str:
        """The task's name, and the formulation's where there are several."""
        return f"{self.spec.name}-{self.formulation.name}" if len(self.spec.ways()) > 1 else self.spec.name

    @property
    def plugin(self) -> tuple[Kind, str] | None:
        """The installed plugin that provides the task."""
        return ("task", self.task) if isinstance(self.task, str) else None

    @functools.cached_property
    def formulation(self) -> Formulation:
        """How the task is put to a backbone."""
        return next(way for way in self.spec.ways() if self.way in ("", way.name))

    @functools.cached_property
    def fitting(self) -> list[Tiny]:
        """The tiny models that the formulation suits, of each kind of backbone those of the first families: of those
        that name its auto class, or where none does, of all that have such a head.
        """
        way = self.formulation
        named = [tiny for tiny in all_tiny() if tiny.auto_class == way.auto_class]
        suiting = [tiny for tiny in named or all_with_head(way.auto_class) if tiny.kind in way.kinds]
        by_kind: dict[str, list[Tiny]] = {}
        for tiny in suiting:
            by_kind.setdefault(tiny.kind, []).append(tiny)
        return [tiny for tinies in by_kind.values() for tiny in tinies[:MODELS]]

    def model(self, tiny: Tiny, **arguments: Any) -> PreTrainedModel:
        """The tiny model with the tokenizer's vocabulary, the same at every call."""
        tokens = {"vocab_size": len(self.tokenizer), "pad_token_id": self.tokenizer.pad_token_id}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return tiny.build(tiny.config(**tokens, **arguments))

    @functools.cached_property
    def spec(self) -> TaskSpec:
        """The task's spec."""
        return default_registry().task(self.task) if isinstance(self.task, str) else self.task

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """All options with their values."""
        return self.spec.configure(self.prepare())

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that texts are encoded with."""
        return tiny_tokenizer()

    def unread(self) -> Task:
        """The task before it has read any data."""
        return make_task(self.spec, self.options, self.formulation.name)

    def read(self, seed: int = SEED) -> tuple[Task, Data]:
        """The task, read and encoded afresh."""
        task = self.unread()
        task.read(seed)
        return task, task.encode(self.tokenizer)

    @functools.cached_property
    def loaded(self) -> tuple[Task, Data]:
        """The task, read and encoded once for the checks that only look."""
        return self.read()

    def labels(self, rows: Rows, limit: int = 2000) -> np.ndarray:
        """The labels of a split: as they stand in its rows, or as the collator makes them."""
        task, _ = self.loaded
        chosen = [rows[index] for index in range(min(len(rows), limit))]
        if all("labels" in row and np.ndim(row["labels"]) == 0 for row in chosen):
            return np.asarray([row["labels"] for row in chosen])
        batch = task.collator(self.tokenizer)(chosen[:ROWS])
        return np.asarray(next(batch[name] for name in LABELS if name in batch))


def task_cases(task: str | TaskSpec, prepare: Callable[[], dict[str, Any]]) -> list[TaskCase]:
    """A task in each of its formulations; the options are prepared once."""
    prepare = functools.cache(prepare)
    return [TaskCase(task, prepare, way.name) for way in TaskCase(task, prepare).spec.ways()]


def spec_is_plain_data(case: TaskCase) -> None:
    """The spec survives JSON."""
    survives_json(case.spec, case.label)


def reads_and_encodes(case: TaskCase) -> None:
    """The data can be read, and train and test are rows of features that fit the tokenizer."""
    _, data = case.loaded
    longest = case.tokenizer.model_max_length
    for name, rows in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if rows is None:
            continue
        assert len(rows) > 0 or name == "validation", f"the {name} split is empty"
        for row in _some(rows):
            assert "input_ids" in row, f"a row of {name} has no input_ids, only {', '.join(row)}"
            for ids in _sequences(row["input_ids"]):
                assert ids.ndim == 1 and ids.size > 0, (
                    f"input_ids of a {name} row are no sequence of tokens: {row['input_ids']}"
                )
                assert ids.size <= longest, (
                    f"a {name} row has {ids.size} tokens, but the tokenizer's model_max_length is {longest}; truncate"
                    " to the smaller of it and the task's own limit"
                )
                assert 0 <= ids.min() <= ids.max() < len(case.tokenizer), (
                    f"a {name} row has ids that the tokenizer does not know"
                )


def same_seed_same_data(case: TaskCase) -> None:
    """Read twice with one seed, whatever the global generators are at, the splits are the same."""
    _, first = case.loaded
    state = np.random.get_state()
    try:
        np.random.seed(99)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(99)
            _, second = case.read()
    finally:
        np.random.set_state(state)
    for name in ("train", "validation", "test"):
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None) == (other is None), f"the {name} split is there at one reading and not at another"
        if one is None or other is None:
            continue
        assert len(one) == len(other), (
            f"the {name} split has {len(one)} rows at one reading and {len(other)} at another"
        )
        for index, (left, right) in enumerate(zip(_some(one), _some(other), strict=True)):
            same = left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
            assert same, (
                f"row {index} of {name} differs between two readings with one seed; use the seed for all that is random"
            )


def labels_in_range(case: TaskCase) -> None:
    """Labels are numbers from 0 to num_labels - 1 (or -100 where nothing is predicted); all occur somewhere."""
    task, data = case.loaded
    classes = "start_positions" not in data.train[0]  # those are tokens' numbers
    count = task.model_arguments().get("num_labels") if classes else None
    for name, rows in (("train", data.train), ("test", data.test)):
        labels = case.labels(rows)
        assert np.isfinite(labels).all(), f"a label of {name} is not finite"
        if count is None or count == 1 or not np.issubdtype(labels.dtype, np.integer):
            continue
        wrong = [int(label) for label in np.unique(labels) if not (0 <= label < count or label == -100)]
        assert not wrong, f"labels {wrong[:5]} of {name} are out of range for num_labels={count}"
        assert len(np.unique(labels)) > 1 or len(rows) < 3, f"all labels of {name} are {labels.flat[0]}; is it sorted?"


def collator_gives_tensors(case: TaskCase) -> None:
    """A batch is a dictionary of tensors with one row an example, labels among them."""
    task, data = case.loaded
    rows = _some(data.train, 5)
    batch = task.collator(case.tokenizer)(rows)
    for name, value in batch.items():
        assert isinstance(value, Tensor), f"the collator gives {name} as {type(value).__name__}, not as a tensor"
        assert value.shape[:1] == (len(rows),), (
            f"the collator gives {name} with {tuple(value.shape)} for {len(rows)} rows"
        )
    missing = {"input_ids", "attention_mask"} - set(batch)
    assert not missing, f"a batch lacks {', '.join(sorted(missing))}"
    assert set(LABELS) & set(batch), f"a batch lacks labels: it has none of {', '.join(LABELS)}"


def model_learns_from_batches(case: TaskCase) -> None:
    """A tiny model of the task's auto class takes a batch and gives a finite loss with gradients."""
    task, data = case.loaded
    if not case.fitting:
        raise NotApplicable(f"no installed family has a tiny {case.formulation.auto_class}")
    batch = task.collator(case.tokenizer)(_some(data.train, 5))
    for tiny in case.fitting:
        model = case.model(tiny, **task.model_arguments())
        loss = model(**{name: value for name, value in batch.items() if name != "token_type_ids"}).loss
        assert loss is not None and bool(torch.isfinite(loss)), f"{tiny.label}: the loss of a batch is {loss}"
        loss.backward()


@torch.no_grad()
def scores_are_finite(case: TaskCase) -> None:
    """A task that asks the model in its own way gets finite metrics, the score's among them, from tiny models."""
    task, data = case.loaded
    if not task.asks_itself:
        raise NotApplicable("the pipeline collects the logits and the task measures them")
    if not case.fitting:
        raise NotApplicable(f"no installed family has a tiny {case.formulation.auto_class}")
    for tiny in [next(t for t in case.fitting if t.kind == kind) for kind in {t.kind for t in case.fitting}]:
        found = task.scores(case.model(tiny, **task.model_arguments()).eval(), case.tokenizer, data.test, 8)
        bad = [name for name, value in found.items() if not (isinstance(value, float) and np.isfinite(value))]
        assert not bad, f"{tiny.label}: {', '.join(bad)} is no finite float"
        assert case.spec.metric in found, f"scores() gives {', '.join(found)}, but the metric is {case.spec.metric!r}"


@torch.no_grad()
def answers_new_texts(case: TaskCase) -> None:
    """A task that answers new texts does so without having read any data: one answer of plain data for each, the same
    whatever else is asked with it.
    """
    task, _ = case.loaded
    if not task.answers_texts:
        raise NotApplicable("the task defines no ask(), so what it trains is used by other code than refarch predict")
    if not case.fitting:
        raise NotApplicable(f"no installed family has a tiny {case.formulation.auto_class}")
    unread = case.unread()
    texts = ["a word", "some more words than those", "a word"]
    for tiny in [next(t for t in case.fitting if t.kind == kind) for kind in {t.kind for t in case.fitting}]:
        model = case.model(tiny, **task.model_arguments()).eval()
        answers = unread.ask(model, case.tokenizer, texts, 2)
        assert len(answers) == len(texts), f"{tiny.label}: ask() gives {len(answers)} answers to {len(texts)} texts"
        wrong = [
            answer for answer in answers if not isinstance(answer, dict) or json.loads(json.dumps(answer)) != answer
        ]
        assert not wrong, f"{tiny.label}: the answer {wrong[0]!r} is no plain data"
        same = answers[0].keys() == answers[2].keys() and answers[0].get("label") == answers[2].get("label")
        assert same, f"{tiny.label}: one text has two answers, {answers[0]!r} and {answers[2]!r}: are they in order?"


def perfect_predictions_are_perfect(case: TaskCase) -> None:
    """The score's metric is best for perfect predictions, worse for wrong ones, and all metrics are finite."""
    task, data = case.loaded
    if task.asks_itself:
        raise NotApplicable("the task asks the model in its own way; its metrics are tested with the plugin")
    labels, spec = case.labels(data.test), case.spec
    right, wrong = task.metrics(_predict(labels, 0), labels), task.metrics(_predict(labels, 1), labels)
    assert spec.metric in right, f"metrics() gives {', '.join(right)}, but the spec's metric is {spec.metric!r}"
    bad = [name for name, value in right.items() if not (isinstance(value, float) and np.isfinite(value))]
    assert not bad, f"of perfect predictions, {', '.join(bad)} is no finite float"
    best, other = right[spec.metric], wrong[spec.metric]
    sign = 1 if spec.greater_is_better else -1
    assert sign * best > sign * other, f"{spec.metric} is {best} for perfect predictions, {other} for wrong ones"
    ideal = (1.0, 100.0) if spec.greater_is_better else (0.0,)
    assert any(abs(best - value) < 1e-6 for value in ideal), f"{spec.metric} of perfect predictions is {best}"


def baselines_in_range(case: TaskCase) -> None:
    """Baselines are finite and no better than perfect predictions."""
    task, data = case.loaded
    baselines = task.baselines()
    if not baselines:
        raise NotApplicable("the task gives no baselines")
    for name, value in baselines.items():
        assert isinstance(value, float) and np.isfinite(value), f"baseline {name!r} is {value!r}, no finite float"
    if task.asks_itself:
        return
    labels, sign = case.labels(data.test), 1 if case.spec.greater_is_better else -1
    best = task.metrics(_predict(labels, 0), labels)[case.spec.metric]
    for name, value in baselines.items():
        assert sign * value <= sign * best, f"baseline {name!r} is {value}, better than perfect predictions ({best})"


def _predict(labels: np.ndarray, shift: int) -> np.ndarray:
    """Logits that say the labels, or other ones by ``shift``; of numbers, these themselves, or with another sign."""
    if not np.issubdtype(labels.dtype, np.integer):
        return labels[..., None] * (1.0 - 2.0 * shift)
    count = max(2, int(labels.max()) + 1)
    chosen = (np.clip(labels, 0, None) + shift) % count
    return np.eye(count, dtype=np.float32)[chosen] * 10


def _sequences(ids: Any) -> list[np.ndarray]:
    """A row's sequence of tokens, or those of its choices."""
    several = len(ids) > 0 and np.ndim(ids[0]) == 1
    return [np.asarray(each) for each in ids] if several else [np.asarray(ids)]


def _some(rows: Rows, limit: int = ROWS) -> list[Any]:
    return [rows[index] for index in range(min(limit, len(rows)))]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):  # perhaps of sequences of unequal lengths
        return one == other
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


TASK_CHECKS: dict[str, Check[TaskCase]] = collect(
    light_import,
    spec_is_plain_data,
    reads_and_encodes,
    same_seed_same_data,
    labels_in_range,
    collator_gives_tensors,
    model_learns_from_batches,
    scores_are_finite,
    answers_new_texts,
    perfect_predictions_are_perfect,
    baselines_in_range,
)
"""Every check of a task, by name."""
