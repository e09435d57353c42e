"""GLUE and SuperGLUE as presets: where each set is on the hub, its columns and its metric.

The test splits of both keep their labels to themselves, so a preset's test split is the set's validation split, and its
validation split is made from the train rows. A local copy is used with ``dataset=FOLDER``: one that ``save_to_disk``
wrote, or that holds ``train.csv`` and so on, or has such a folder for each set. Of SuperGLUE's sets COPA is a preset of
multiple choice, and ReCoRD, whose questions have several right answers, is none.
"""

from __future__ import annotations

from typing import Any

from refarch import Option, TaskSpec

GLUE, SUPER = "nyu-mll/glue", "aps/super_glue@refs/convert/parquet"  # whose main branch is a script
GLUE_PAPER = "Wang et al. 2018, arXiv 1804.07461"
SUPER_PAPER = "Wang et al. 2019, arXiv 1905.00537"


def _preset(base: TaskSpec, name: str, summary: str, columns: str, metric: str, **defaults: Any) -> TaskSpec:
    suite, _, config = name.partition("-")
    text, _, pair = columns.partition(" ")
    values: dict[str, Any] = {
        "dataset": GLUE if suite == "glue" else SUPER,
        "config": config,
        "test": "validation",
        "text_column": text,
        **({"pair_column": pair} if pair else {}),
        **defaults,
    }
    return base.model_copy(
        update={
            "name": name,
            "summary": f"{'GLUE' if suite == 'glue' else 'SuperGLUE'}: {summary}",
            "kind": "preset",
            "metric": metric,
            "defaults": values,
            "reference": GLUE_PAPER if suite == "glue" else SUPER_PAPER,
            "data_licence": "the set's own; see its page on the hub",
        }
    )


def presets(classification: TaskSpec, regression: TaskSpec) -> list[TaskSpec]:
    """All presets, from the plain tasks' specs."""
    c = classification
    return [
        _preset(c, "glue-cola", "is the sentence acceptable English?", "sentence", "matthews"),
        _preset(c, "glue-sst2", "sentiment of film reviews' phrases", "sentence", "accuracy"),
        _preset(c, "glue-mrpc", "do two sentences say the same?", "sentence1 sentence2", "f1"),
        _preset(c, "glue-qqp", "do two questions ask the same?", "question1 question2", "f1"),
        _preset(
            c,
            "glue-mnli",
            "entailment, contradiction or neither",
            "premise hypothesis",
            "accuracy",
            test="validation_matched",
        ),
        _preset(c, "glue-qnli", "does the sentence answer the question?", "question sentence", "accuracy"),
        _preset(c, "glue-rte", "does the first sentence entail the second?", "sentence1 sentence2", "accuracy"),
        _preset(c, "glue-wnli", "does the resolved pronoun follow?", "sentence1 sentence2", "accuracy"),
        _preset(regression, "glue-stsb", "how alike are two sentences, 0 to 5?", "sentence1 sentence2", "pearson"),
        _preset(c, "superglue-boolq", "yes or no, from a passage", "question passage", "accuracy", max_length=256),
        _preset(c, "superglue-cb", "entailment, contradiction or neither", "premise hypothesis", "macro_f1"),
        _preset(c, "superglue-rte", "does the premise entail the hypothesis?", "premise hypothesis", "accuracy"),
        _preset(c, "superglue-wic", "has a word one sense in two sentences?", "word+sentence1 sentence2", "accuracy"),
        _preset(c, "superglue-wsc", "does the pronoun stand for the noun?", "text span1_text+span2_text", "accuracy"),
        _preset(
            c,
            "superglue-multirc",
            "is this an answer to the question about the paragraph?",
            "paragraph question+answer",
            "f1",
            max_length=512,
        ),
    ]


EXTRA = (
    Option(name="text_column", type="string", default="text", help="the column with the texts; a+b joins two columns"),
    Option(
        name="pair_column",
        type="string",
        help="the column with the second text, for tasks about pairs; only the longer text of a pair is cut",
    ),
    Option(name="label_column", type="string", default="label", help="the column with the labels"),
    Option(name="id_column", type="string", help="a column with identifiers, no two of which may be equal"),
)
"""The columns of both tasks."""
