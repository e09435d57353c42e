"""Polarity of words: a preset of text classification with the words of the VADER lexicon (Hutto & Gilbert 2014)."""

from refarch_text_classification import SPLIT_OPTIONS

from refarch import Option, TaskSpec, hookimpl

OPTIONS = (
    *SPLIT_OPTIONS,
    Option(
        name="minimum_strength",
        type="number",
        default=0.0,
        minimum=0,
        maximum=3,
        help="leave out words whose mean rating (-4 to 4) is nearer to zero than this",
    ),
)

SPEC = TaskSpec(
    name="lexicon-polarity",
    summary="Is a word positive or negative? 7,200 words, no stem in two splits; trains in a minute on CPU",
    implementation="refarch_lexicon_polarity.task:LexiconPolarity",
    auto_class="AutoModelForSequenceClassification",
    new_head=True,
    metric="accuracy",
    options=OPTIONS,
    defaults={"split_seed": 0, "test_size": 0.18, "max_length": 32},
    training={"epochs": 2, "batch_size": 32, "learning_rate": 1e-3},
    data_licence="MIT",
    reference="Hutto & Gilbert 2014, VADER, ICWSM; file vader_lexicon.txt of vaderSentiment 3.3.2",
    kind="preset",
)


@hookimpl
def refarch_tasks() -> list[TaskSpec]:
    """The task of this plugin."""
    return [SPEC]
