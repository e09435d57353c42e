"""Token classification: the specs of the task and its presets. Imports no torch until the task is used."""

from __future__ import annotations

from refarch import SOURCE_OPTIONS, SPLIT_OPTIONS, Formulation, Option, TaskSpec, hookimpl

__all__ = ["OPTIONS", "SPEC", "refarch_tasks"]

OPTIONS = (
    *SOURCE_OPTIONS,
    Option(name="tokens_column", type="string", default="tokens", help="the column with each sentence's list of words"),
    Option(name="tags_column", type="string", default="ner_tags", help="the column with the list of their tags"),
    Option(name="id_column", type="string", help="a column with identifiers, no two of which may be equal"),
    Option(name="token_field", type="integer", default=0, help="of a line of a CoNLL file, the field with the word"),
    Option(name="tag_field", type="integer", default=-1, help="of a line of a CoNLL file, the field with the tag"),
    Option(
        name="tag_names", type="strings", help="where tags are numbers without declared names: their names in order"
    ),
    Option(
        name="scheme",
        type="string",
        choices=("IOB1", "IOB2", "IOBES", "unchecked"),
        help="how tags mark entities; found in the train rows when not set. BIO is IOB2, BIOES is IOBES",
    ),
    Option(
        name="pieces",
        type="string",
        default="first",
        choices=("first", "all"),
        help="which pieces of a word are trained on; the first one is what is scored",
    ),
    Option(
        name="max_length",
        type="integer",
        default=128,
        minimum=8,
        help="tokens, at most the tokenizer's own limit; a longer sentence is read in several windows",
    ),
    Option(name="overlap", type="integer", default=16, minimum=0, help="words that two windows of a sentence share"),
    Option(
        name="strict",
        type="boolean",
        default=False,
        help="score only entities whose tags keep to the scheme, instead of every run of tags of one type",
    ),
    *SPLIT_OPTIONS,
)

SPEC = TaskSpec(
    name="token-classification",
    summary="Find entities in sentences from CoNLL files, JSONL or datasets",
    implementation="refarch_token_classification.task:TokenClassification",
    formulations=(
        Formulation(
            name="tagging",
            summary="a head on every token; of an encoder-decoder, on its encoder's",
            auto_class="AutoModelForTokenClassification",
            new_head=True,
        ),
    ),
    metric="f1",
    options=OPTIONS,
    training={"epochs": 3, "batch_size": 16, "learning_rate": 1e-3},
)

_ONTONOTES = (
    *("O", "B-CARDINAL", "B-DATE", "I-DATE", "B-PERSON", "I-PERSON", "B-NORP", "B-GPE", "I-GPE", "B-LAW", "I-LAW"),
    *("B-ORG", "I-ORG", "B-PERCENT", "I-PERCENT", "B-ORDINAL", "B-MONEY", "I-MONEY", "B-WORK_OF_ART", "I-WORK_OF_ART"),
    *("B-FAC", "B-TIME", "I-CARDINAL", "B-LOC", "B-QUANTITY", "I-QUANTITY", "I-NORP", "I-LOC", "B-PRODUCT", "I-TIME"),
    *("B-EVENT", "I-EVENT", "I-FAC", "B-LANGUAGE", "I-PRODUCT", "I-ORDINAL", "I-LANGUAGE"),
)
"""The tags of ``tner/ontonotes5`` in the order of their numbers, which the set itself does not declare."""


def _preset(name: str, summary: str, licence: str, reference: str, **defaults: object) -> TaskSpec:
    return SPEC.preset(name, summary, defaults, data_licence=licence, reference=reference)


PRESETS = (
    _preset(
        "conll2003",
        "CoNLL-2003: persons, places, organisations and others in newswire",
        "Reuters corpus: for research, see its own agreement",
        "Tjong Kim Sang and De Meulder 2003, arXiv cs/0306050",
        dataset="lhoestq/conll2003",
    ),
    _preset(
        "ontonotes5",
        "OntoNotes 5: eighteen types of entities in six kinds of text",
        "LDC2013T19: of the Linguistic Data Consortium",
        "Hovy et al. 2006, OntoNotes: The 90% Solution, NAACL",
        dataset="tner/ontonotes5@refs/convert/parquet",
        tags_column="tags",
        tag_names=list(_ONTONOTES),
    ),
    _preset(
        "wnut17",
        "WNUT 2017: rare and emerging entities in social media",
        "CC BY 4.0",
        "Derczynski et al. 2017, Results of the WNUT2017 Shared Task, W-NUT",
        dataset="flaitenberger/wnut_17",
    ),
)


@hookimpl
def refarch_tasks() -> list[TaskSpec]:
    """The task of this plugin, and its presets."""
    return [SPEC, *PRESETS]
