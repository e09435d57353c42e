"""Multiple choice: the specs of the task and its presets. Imports no torch until the task is used."""

from __future__ import annotations

from refarch import SOURCE_OPTIONS, SPLIT_OPTIONS, TEXT_FORMULATIONS, Formulation, Option, TaskSpec, hookimpl
from refarch_multiple_choice.presets import presets

__all__ = ["OPTIONS", "SPEC", "refarch_tasks"]

OPTIONS = (
    *SOURCE_OPTIONS,
    Option(name="question_column", type="string", default="question", help="the column with the questions"),
    Option(name="context_column", type="string", help="a column with the text that a question is about"),
    Option(
        name="choice_columns",
        type="strings",
        default=["choices"],
        help="the column with each question's list of choices (a.b for field b of a), or the columns with one each",
    ),
    Option(name="choices", type="strings", help="instead of columns: choices that all questions share, such as no,yes"),
    Option(
        name="answer_column",
        type="string",
        default="answer",
        help="the column with the right choice: its number from 0, its letter, its text, or its label",
    ),
    Option(name="label_column", type="string", help="the column with the list of labels of a question's choices"),
    Option(name="labels", type="strings", help="instead of a column: the labels of every question's choices, in order"),
    Option(name="id_column", type="string", help="a column with identifiers, no two of which may be equal"),
    Option(name="blank", type="string", help="what marks the place in a question that its choices fill, such as _"),
    Option(
        name="instructions",
        type="boolean",
        default=False,
        help="questions are instructions that hold their choices and labels, as in LLM-Adapters' JSON files",
    ),
    Option(
        name="prompt",
        type="string",
        help="what the model reads, with {question} and perhaps {context} in it; when not set, one that suits the"
        " backbone's kind",
    ),
    Option(
        name="max_length",
        type="integer",
        default=256,
        minimum=8,
        help="tokens of prompt and choice (of an encoder-decoder, of the prompt), at most the tokenizer's own limit",
    ),
    Option(name="max_choice", type="integer", default=64, minimum=1, help="tokens of a choice; longer ones are cut"),
    *SPLIT_OPTIONS,
)

SPEC = TaskSpec(
    name="multiple-choice",
    summary="Choose the right one of several answers: CSV, JSON, JSONL or datasets",
    implementation="refarch_multiple_choice.task:MultipleChoice",
    formulations=(
        *TEXT_FORMULATIONS,
        Formulation(
            name="choosing",
            summary="a head scores the question with each choice",
            kinds=("encoder",),
            auto_class="AutoModelForMultipleChoice",
            new_head=True,
        ),
    ),
    metric="accuracy",
    options=OPTIONS,
    training={"epochs": 3, "batch_size": 16, "eval_batch_size": 32, "learning_rate": 5e-4},
)


@hookimpl
def refarch_tasks() -> list[TaskSpec]:
    """The task of this plugin, and its presets."""
    return [SPEC, *presets(SPEC)]
