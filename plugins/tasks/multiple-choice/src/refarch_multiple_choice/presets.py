"""Well-known sets: where each is on the hub, its columns and how its answers are given.

Where a set keeps the answers of its test split to itself, the preset's test split is the set's validation split, and
its validation split is made from the train rows. ``@refs/convert/parquet`` is the hub's own conversion of sets whose
main branch is a loading script.
"""

from __future__ import annotations

from typing import Any

from refarch import TaskSpec

OWN = "the set's own; see its page on the hub"
SECRET = {"test": "validation"}
ARC: dict[str, Any] = {
    "dataset": "allenai/ai2_arc",
    "choice_columns": ["choices.text"],
    "label_column": "choices.label",
    "answer_column": "answerKey",
    "id_column": "id",
}


def presets(base: TaskSpec) -> list[TaskSpec]:
    """All presets, from the plain task's spec."""

    def preset(name: str, summary: str, licence: str, reference: str, **defaults: Any) -> TaskSpec:
        own = {"defaults": defaults, "data_licence": licence, "reference": reference}
        return base.model_copy(update={"name": name, "summary": summary, "kind": "preset", **own})

    return [
        preset(
            "openbookqa",
            "OpenBookQA: elementary science that needs common knowledge",
            OWN,
            "Mihaylov et al. 2018, arXiv 1809.02789",
            **{**ARC, "dataset": "allenai/openbookqa", "config": "main", "question_column": "question_stem"},
        ),
        preset(
            "arc-easy",
            "ARC: science exams, the easy questions",
            "CC BY-SA 4.0",
            "Clark et al. 2018, arXiv 1803.05457",
            **{**ARC, "config": "ARC-Easy"},
        ),
        preset(
            "arc-challenge",
            "ARC: science exams, the questions that retrieval and co-occurrence get wrong",
            "CC BY-SA 4.0",
            "Clark et al. 2018, arXiv 1803.05457",
            **{**ARC, "config": "ARC-Challenge"},
        ),
        preset(
            "piqa",
            "PIQA: which of two ways of doing something works",
            OWN,
            "Bisk et al. 2019, arXiv 1911.11641",
            dataset="ybisk/piqa@refs/convert/parquet",
            question_column="goal",
            choice_columns=["sol1", "sol2"],
            answer_column="label",
            max_choice=128,
            **SECRET,
        ),
        preset(
            "hellaswag",
            "HellaSwag: how a description of everyday events goes on",
            "MIT",
            "Zellers et al. 2019, arXiv 1905.07830",
            dataset="Rowan/hellaswag",
            question_column="ctx",
            choice_columns=["endings"],
            answer_column="label",
            prompt="{question}",
            **SECRET,
        ),
        preset(
            "winogrande",
            "WinoGrande: whom or what a sentence's blank stands for",
            OWN,
            "Sakaguchi et al. 2019, arXiv 1907.10641",
            dataset="allenai/winogrande",
            config="winogrande_xl",
            question_column="sentence",
            choice_columns=["option1", "option2"],
            labels=["1", "2"],
            blank="_",
            prompt="{question}",
            **SECRET,
        ),
        preset(
            "boolq",
            "BoolQ: yes or no, from a passage",
            "CC BY-SA 3.0",
            "Clark et al. 2019, arXiv 1905.10044",
            dataset="google/boolq",
            context_column="passage",
            choices=["no", "yes"],
            labels=["false", "true"],
            max_length=512,
            max_choice=8,
            **SECRET,
        ),
        preset(
            "copa",
            "COPA: the more plausible cause or effect of a premise",
            OWN,
            "Roemmele et al. 2011, Choice of Plausible Alternatives, AAAI Spring Symposium",
            dataset="aps/super_glue@refs/convert/parquet",
            config="copa",
            context_column="premise",
            choice_columns=["choice1", "choice2"],
            answer_column="label",
            prompt="{context} What was the {question}?",
            **SECRET,
        ),
        preset(
            "social-iqa",
            "Social IQa: why people act as they do, and what follows",
            OWN,
            "Sap et al. 2019, arXiv 1904.09728",
            dataset="allenai/social_i_qa@refs/convert/parquet",
            context_column="context",
            choice_columns=["answerA", "answerB", "answerC"],
            answer_column="label",
            labels=["1", "2", "3"],
            **SECRET,
        ),
        preset(
            "llm-adapters-commonsense",
            "Commonsense sets as the instruction files of LLM-Adapters (train=FILE.json)",
            "ODC-By for the files; each set's own",
            "Hu et al. 2023, arXiv 2304.01933",
            question_column="instruction",
            instructions=True,
        ),
    ]
