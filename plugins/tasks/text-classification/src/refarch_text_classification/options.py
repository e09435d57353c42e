"""The options of the tasks; light, for both their specs and their code."""

from __future__ import annotations

from refarch import SOURCE_OPTIONS, SPLIT_OPTIONS as SPLITS, Option
from refarch_text_classification.presets import EXTRA

CUT_OPTION = Option(
    name="max_length",
    type="integer",
    default=128,
    minimum=2,
    help="tokens, at most the tokenizer's own limit; longer texts are cut at the end",
)
SPLIT_OPTIONS = (*SPLITS, CUT_OPTION)
"""The options that make sense for a preset as well, which brings its own data."""
OPTIONS = (*SOURCE_OPTIONS, *EXTRA, *SPLIT_OPTIONS)
