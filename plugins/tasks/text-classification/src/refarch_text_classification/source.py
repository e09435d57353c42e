"""Read a corpus from files, or through the ``datasets`` library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refarch.tasks import read_source
from refarch_text_classification.examples import Corpus, from_table


def read_corpus(options: Mapping[str, Any], numbers: bool = False) -> Corpus:
    """Read what the options of the task name.

    Args:
        options: the task's.
        numbers: whether the labels are numbers to predict, and no classes.

    Raises:
        UsageError: neither ``train`` nor ``dataset`` is set.
        DataError: a file or data set is missing or does not fit.
    """
    source = read_source(options, "text-classification")
    names = source.label_names(options["label_column"])
    columns = (options["text_column"], options["label_column"])
    parts = {
        split: from_table(table, *columns, names, options["pair_column"], numbers)
        for split, table in source.tables.items()
    }
    return Corpus(parts["train"], parts.get("validation"), parts.get("test"), names)
