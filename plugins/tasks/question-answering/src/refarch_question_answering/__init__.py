"""Question answering: the specs of the task and its presets. Imports no torch until the task is used."""

from __future__ import annotations

from refarch import SOURCE_OPTIONS, SPLIT_OPTIONS, TEXT_FORMULATIONS, Formulation, Option, TaskSpec, hookimpl

__all__ = ["OPTIONS", "SPEC", "refarch_tasks"]

OPTIONS = (
    *SOURCE_OPTIONS,
    Option(name="question_column", type="string", default="question", help="the column with the questions"),
    Option(name="context_column", type="string", default="context", help="the column with the texts that answer them"),
    Option(
        name="answers_column",
        type="string",
        default="answers",
        help="the column with the answers: texts, or texts with where they start, as in SQuAD",
    ),
    Option(
        name="start_column",
        type="string",
        default="answer_start",
        help="where answers are plain texts, the column with the character that each starts at, if there is one",
    ),
    Option(
        name="id_column",
        type="string",
        default="id",
        help="the column with identifiers, no two of which may be equal; only the default may be missing",
    ),
    Option(
        name="max_length",
        type="integer",
        default=384,
        minimum=16,
        help="tokens, at most the tokenizer's own limit; a longer context is read in windows, or cut for writing",
    ),
    Option(name="stride", type="integer", default=128, minimum=0, help="tokens that two windows of a context share"),
    Option(
        name="max_question", type="integer", default=64, minimum=4, help="tokens of a question; longer ones are cut"
    ),
    Option(name="max_answer", type="integer", default=30, minimum=1, help="tokens of the longest answer"),
    Option(name="n_best", type="integer", default=20, minimum=1, help="spans of each window that are considered"),
    Option(
        name="unanswerable",
        type="boolean",
        help="whether questions may have no answer, as in SQuAD 2.0; whether any has none when not set",
    ),
    Option(
        name="threshold",
        type="number",
        default=0.0,
        help="no answer is given where its score is higher than the best span's by more than this",
    ),
    Option(
        name="prompt",
        type="string",
        help="where text is written: the prompt, with {question} and {context} in it; when not set, one that suits the"
        " kind of backbone",
    ),
    Option(
        name="no_answer",
        type="string",
        default="unanswerable",
        help="where text is written: what stands for no answer",
    ),
    *SPLIT_OPTIONS,
)

SPEC = TaskSpec(
    name="question-answering",
    summary="Answer questions about a text: SQuAD files, JSONL, CSV or datasets",
    implementation="refarch_question_answering.task:QuestionAnswering",
    formulations=(
        *TEXT_FORMULATIONS,
        Formulation(
            name="extractive",
            summary="a head finds where the answer starts and ends; long contexts are read in windows",
            auto_class="AutoModelForQuestionAnswering",
            new_head=True,
        ),
    ),
    metric="f1",
    options=OPTIONS,
    training={"epochs": 2, "batch_size": 16, "learning_rate": 1e-3},
)


def _preset(name: str, summary: str, reference: str, **defaults: object) -> TaskSpec:
    return SPEC.preset(name, summary, defaults, data_licence="CC BY-SA 4.0", reference=reference)


PRESETS = (
    _preset(
        "squad",
        "SQuAD 1.1: questions on Wikipedia articles, each with an answer in the text",
        "Rajpurkar et al. 2016, arXiv 1606.05250",
        dataset="rajpurkar/squad",
        test="validation",
    ),
    _preset(
        "squad-v2",
        "SQuAD 2.0: as SQuAD, with questions that the text does not answer",
        "Rajpurkar et al. 2018, arXiv 1806.03822",
        dataset="rajpurkar/squad_v2",
        test="validation",
        unanswerable=True,
    ),
    _preset(
        "xquad",
        "XQuAD: 1,190 questions of SQuAD in eleven languages; English by default",
        "Artetxe et al. 2019, arXiv 1910.11856",
        dataset="google/xquad",
        config="xquad.en",
        train="validation",
    ),
)
"""The test splits of SQuAD are kept secret: the set's validation split is the preset's test split."""


@hookimpl
def refarch_tasks() -> list[TaskSpec]:
    """The task of this plugin, and its presets."""
    return [SPEC, *PRESETS]
