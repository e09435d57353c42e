"""Conditional text generation: the specs of the task and its presets. Imports no torch until the task is used."""

from __future__ import annotations

from typing import Any

from refarch import SOURCE_OPTIONS, SPLIT_OPTIONS, TEXT_FORMULATIONS, Option, TaskSpec, hookimpl

__all__ = ["OPTIONS", "SPEC", "refarch_tasks"]

OPTIONS = (
    *SOURCE_OPTIONS,
    Option(
        name="source_column",
        type="string",
        default="source",
        help="the column with what is given: texts, or triples and records, written out; a.b is field b of a",
    ),
    Option(
        name="target_column",
        type="string",
        default="target",
        help="the column with what is to be written: a text, or a list of them; rows of one source are references too",
    ),
    Option(name="id_column", type="string", help="a column with identifiers, no two of which may be equal"),
    Option(
        name="skip_empty",
        type="boolean",
        default=False,
        help="leave out rows without a source or a target and say how many, instead of refusing them",
    ),
    Option(
        name="prompt",
        type="string",
        default="{source}",
        help="what the model reads, with {source} in it; a decoder gets a line break after a source that ends it",
    ),
    Option(
        name="max_length",
        type="integer",
        default=512,
        minimum=8,
        help="tokens of the prompt (of a decoder, with the target), at most the tokenizer's own limit; sources are cut",
    ),
    Option(
        name="max_target",
        type="integer",
        default=128,
        minimum=2,
        help="tokens of a target, and of what is written; longer targets are cut in training",
    ),
    Option(name="beams", type="integer", default=1, minimum=1, help="of beam search; 1 for greedy search"),
    Option(name="length_penalty", type="number", default=1.0, help="of beam search; above 0 favours longer texts"),
    Option(
        name="no_repeat_ngram",
        type="integer",
        default=0,
        minimum=0,
        help="no n tokens are written twice; 0 for no limit",
    ),
    Option(name="stemmer", type="boolean", default=True, help="ROUGE compares words by their stems"),
    Option(
        name="bleu_tokenizer",
        type="string",
        default="13a",
        choices=("13a", "intl", "zh", "char", "none"),
        help="sacreBLEU's, as in its signature",
    ),
    Option(name="lowercase", type="boolean", default=False, help="BLEU and chrF take no account of case"),
    *SPLIT_OPTIONS,
)

SPEC = TaskSpec(
    name="text-generation",
    summary="Write a text from a given one: CSV, JSON, JSONL or datasets, with several references",
    implementation="refarch_text_generation.task:TextGeneration",
    formulations=TEXT_FORMULATIONS,
    metric="rougeL",
    options=OPTIONS,
    training={"epochs": 3, "batch_size": 16, "eval_batch_size": 32, "learning_rate": 5e-4},
)


def _preset(base: TaskSpec, name: str, summary: str, **changes: Any) -> TaskSpec:
    return base.preset(name, summary, changes.pop("defaults", {}), **changes)


SUMMARISATION = _preset(
    SPEC,
    "summarisation",
    "Write summaries, scored by ROUGE",
    defaults={"prompt": "summarize: {source}", "max_length": 1024},
)
TRANSLATION = _preset(SPEC, "translation", "Translate sentences, scored by sacreBLEU and chrF", metric="bleu")
DATA_TO_TEXT = _preset(
    SPEC, "data-to-text", "Write sentences that say what triples and records hold, scored by BLEU", metric="bleu"
)

PRESETS = (
    SUMMARISATION,
    TRANSLATION,
    DATA_TO_TEXT,
    _preset(
        SUMMARISATION,
        "cnn-dailymail",
        "CNN / Daily Mail: news and their highlights, several sentences each",
        metric="rougeLsum",
        defaults={
            "dataset": "abisee/cnn_dailymail",
            "config": "3.0.0",
            "source_column": "article",
            "target_column": "highlights",
            "id_column": "id",
        },
        data_licence="Apache-2.0",
        reference="See et al. 2017, arXiv 1704.04368",
    ),
    _preset(
        SUMMARISATION,
        "xsum",
        "XSum: BBC news and what they say in one sentence",
        defaults={
            "dataset": "EdinburghNLP/xsum@refs/convert/parquet",
            "source_column": "document",
            "target_column": "summary",
            "max_target": 64,
            "skip_empty": True,
        },
        data_licence="unknown; see its page on the hub",
        reference="Narayan et al. 2018, arXiv 1808.08745",
    ),
    _preset(
        TRANSLATION,
        "wmt16-en-ro",
        "WMT 2016: news from English into Romanian",
        defaults={
            "dataset": "wmt/wmt16",
            "config": "ro-en",
            "source_column": "translation.en",
            "target_column": "translation.ro",
            "prompt": "translate English to Romanian: {source}",
        },
        data_licence="unknown; see its page on the hub",
        reference="Bojar et al. 2016, Findings of the 2016 Conference on Machine Translation, WMT",
    ),
    _preset(
        DATA_TO_TEXT,
        "e2e",
        "E2E: restaurants' records and up to forty sentences about each",
        defaults={
            "dataset": "tuetschek/e2e_nlg@refs/convert/parquet",
            "source_column": "meaning_representation",
            "target_column": "human_reference",
            "max_length": 256,
        },
        data_licence="CC BY-SA 4.0",
        reference="Novikova et al. 2017, arXiv 1706.09254",
    ),
    _preset(
        DATA_TO_TEXT,
        "webnlg",
        "WebNLG 2017: one to seven triples of DBpedia and sentences that say them",
        defaults={
            "dataset": "webnlg-challenge/web_nlg@refs/convert/parquet",
            "config": "webnlg_challenge_2017",
            "source_column": "modified_triple_sets.mtriple_set",
            "target_column": "lex.text",
            "skip_empty": True,
            "max_length": 384,
        },
        data_licence="CC BY-NC-SA 4.0; see its page on the hub",
        reference="Gardent et al. 2017, The WebNLG Challenge, INLG",
    ),
    _preset(
        DATA_TO_TEXT,
        "dart",
        "DART: triples from tables, WebNLG and E2E, and sentences that say them",
        defaults={
            "dataset": "Yale-LILY/dart@refs/convert/parquet",
            "source_column": "tripleset",
            "target_column": "annotations.text",
            "max_length": 384,
        },
        data_licence="MIT",
        reference="Nan et al. 2021, arXiv 2007.02871",
    ),
)
"""``@refs/convert/parquet`` is the hub's own conversion of sets whose main branch is a loading script. WebNLG's rows
without a sentence are those of its blind test.
"""


@hookimpl
def refarch_tasks() -> list[TaskSpec]:
    """The task of this plugin, and its presets."""
    return [SPEC, *PRESETS]
