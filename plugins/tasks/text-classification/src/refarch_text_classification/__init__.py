"""Text classification: the spec, its options, and what a preset builds on. Imports no torch until the task is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refarch import TaskSpec, hookimpl
from refarch_text_classification.options import OPTIONS, SPLIT_OPTIONS
from refarch_text_classification.presets import presets

if TYPE_CHECKING:
    from refarch_text_classification.examples import Corpus, Examples
    from refarch_text_classification.task import TextClassification

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

REGRESSION = TaskSpec(
    name="text-regression",
    summary="Predict a number from a text or a pair of texts",
    implementation="refarch_text_classification.regression:TextRegression",
    auto_class="AutoModelForSequenceClassification",
    new_head=True,
    metric="pearson",
    options=OPTIONS,
    training={"epochs": 3, "batch_size": 32, "learning_rate": 1e-3},
)

_LAZY = {"Corpus": "examples", "Examples": "examples", "TextClassification": "task"}
__all__ = [
    "OPTIONS",
    "REGRESSION",
    "SPEC",
    "SPLIT_OPTIONS",
    "Corpus",
    "Examples",
    "TextClassification",
    "refarch_tasks",
]


@hookimpl
def refarch_tasks() -> list[TaskSpec]:
    """The tasks of this plugin, and their presets."""
    return [SPEC, REGRESSION, *presets(SPEC, REGRESSION)]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
