"""Instruction tuning: the specs of the task and its presets. Imports no torch until the task is used."""

from __future__ import annotations

from refarch import SOURCE_OPTIONS, SPLIT_OPTIONS, TEXT_FORMULATIONS, Option, TaskSpec, hookimpl

__all__ = ["OPTIONS", "SPEC", "refarch_tasks"]

OPTIONS = (
    *SOURCE_OPTIONS,
    Option(
        name="messages_column",
        type="string",
        help="the column with lists of messages, each with role and content; found when not set: messages",
    ),
    Option(
        name="prompt_column",
        type="string",
        help="instead of messages: the column with what is asked; found when not set: prompt, or instruction",
    ),
    Option(
        name="answer_column",
        type="string",
        help="the column with the answers to the prompts; found when not set: completion, or output",
    ),
    Option(
        name="input_column",
        type="string",
        help="a column with what a prompt is about, which may be empty; found beside instruction when not set: input",
    ),
    Option(
        name="id_column",
        type="string",
        help="a column with identifiers, no two of which may be equal",
    ),
    Option(name="system", type="string", help="the system message of conversations that begin with none"),
    Option(
        name="template",
        type="string",
        help="how a conversation is written: plain, or a file with a Jinja template; the tokenizer's own when not set,"
        " plain where it has none",
    ),
    Option(
        name="max_length",
        type="integer",
        default=512,
        minimum=8,
        help="tokens of an example, at most the tokenizer's own limit; a longer one is cut at its end",
    ),
    Option(
        name="max_answer",
        type="integer",
        default=256,
        minimum=1,
        help="tokens that are written where answers are compared, and of an encoder-decoder's answers",
    ),
    Option(
        name="packing",
        type="boolean",
        default=False,
        help="train on rows that hold several examples each, which do not see each other; decoders only",
    ),
    Option(
        name="match",
        type="string",
        choices=("number", "text"),
        help="also write the last answer of each conversation and compare its final number, or all of it",
    ),
    *SPLIT_OPTIONS,
)

SPEC = TaskSpec(
    name="instruction-tuning",
    summary="Learn to answer from conversations (chat JSONL, prompts and completions), by the chat template",
    implementation="refarch_instruction_tuning.task:InstructionTuning",
    formulations=TEXT_FORMULATIONS,
    metric="loss",
    greater_is_better=False,
    options=OPTIONS,
    training={"epochs": 1, "batch_size": 8, "eval_batch_size": 8, "learning_rate": 1e-3},
)


def _preset(
    name: str, summary: str, licence: str, reference: str, defaults: dict[str, object], **changes: object
) -> TaskSpec:
    return SPEC.preset(name, summary, defaults, data_licence=licence, reference=reference, **changes)


PRESETS = (
    _preset(
        "alpaca",
        "Alpaca: 52,002 instructions with answers that a model has written",
        "CC BY-NC 4.0",
        "Taori et al. 2023, Stanford Alpaca: An Instruction-following LLaMA model",
        {"dataset": "tatsu-lab/alpaca"},
    ),
    _preset(
        "dolly",
        "Dolly: 15,011 instructions with answers that people have written",
        "CC BY-SA 3.0",
        "Conover et al. 2023, Free Dolly, databricks-dolly-15k",
        {
            "dataset": "databricks/databricks-dolly-15k",
            "prompt_column": "instruction",
            "input_column": "context",
            "answer_column": "response",
        },
    ),
    _preset(
        "gsm8k",
        "GSM8K: grade-school mathematics, answered in steps; exact match of the final number",
        "MIT",
        "Cobbe et al. 2021, arXiv 2110.14168",
        {
            "dataset": "openai/gsm8k",
            "config": "main",
            "prompt_column": "question",
            "answer_column": "answer",
            "match": "number",
        },
        metric="exact_match",
        greater_is_better=True,
    ),
    _preset(
        "ultrachat",
        "UltraChat 200k: dialogues of several turns that a model has written",
        "MIT",
        "Ding et al. 2023, arXiv 2305.14233; filtered by Tunstall et al. 2023, arXiv 2310.16944",
        {"dataset": "HuggingFaceH4/ultrachat_200k", "train": "train_sft", "test": "test_sft"},
    ),
)


@hookimpl
def refarch_tasks() -> list[TaskSpec]:
    """The task of this plugin, and its presets."""
    return [SPEC, *PRESETS]
