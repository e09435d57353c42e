"""Text classification: the spec, its options, and what a preset builds on. Imports no torch until the task is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refarch import Option, TaskSpec, hookimpl

if TYPE_CHECKING:
    from refarch_text_classification.examples import Corpus, Examples
    from refarch_text_classification.splits import split
    from refarch_text_classification.task import TextClassification

SPLIT_OPTIONS = (
    Option(
        name="test_size",
        type="number",
        default=0.2,
        exclusive_minimum=0,
        maximum=0.8,
        help="share of the train rows that become the test split where there is none",
    ),
    Option(
        name="validation_size",
        type="number",
        default=0.1,
        minimum=0,
        maximum=0.8,
        help="share of the train rows that become the validation split where there is none; 0 for none",
    ),
    Option(
        name="split_seed",
        type="integer",
        minimum=0,
        help="decides made splits and limits; the run's seed when not set",
    ),
    Option(
        name="train_limit",
        type="integer",
        minimum=2,
        help="train on at most so many rows, drawn evenly from each label",
    ),
    Option(
        name="test_limit", type="integer", minimum=1, help="test on at most so many rows, drawn evenly from each label"
    ),
    Option(
        name="max_length",
        type="integer",
        default=128,
        minimum=2,
        help="tokens, at most the tokenizer's own limit; longer texts are cut at the end",
    ),
)
"""The options that make sense for a preset as well, which brings its own data."""

OPTIONS = (
    Option(
        name="train", type="string", help="file (.csv, .tsv, .jsonl, .parquet) or URL; of a dataset, a split's name"
    ),
    Option(name="validation", type="string", help="as train; made from the train rows when not set"),
    Option(name="test", type="string", help="as train; made from the train rows when not set"),
    Option(name="dataset", type="string", help="instead of files: a name or folder for datasets.load_dataset"),
    Option(name="config", type="string", help="the dataset's configuration (subset)"),
    Option(name="text_column", type="string", default="text", help="the column with the texts"),
    Option(name="label_column", type="string", default="label", help="the column with the labels"),
    *SPLIT_OPTIONS,
)

SPEC = TaskSpec(
    name="text-classification",
    summary="Classify texts from local files, URLs or datasets into labels",
    implementation="refarch_text_classification.task:TextClassification",
    auto_class="AutoModelForSequenceClassification",
    new_head=True,
    metric="accuracy",
    options=OPTIONS,
    training={"epochs": 3, "batch_size": 32, "learning_rate": 1e-3},
)

_LAZY = {"Corpus": "examples", "Examples": "examples", "TextClassification": "task", "split": "splits"}
__all__ = ["OPTIONS", "SPEC", "SPLIT_OPTIONS", "Corpus", "Examples", "TextClassification", "refarch_tasks", "split"]


@hookimpl
def refarch_tasks() -> list[TaskSpec]:
    """The task of this plugin."""
    return [SPEC]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
