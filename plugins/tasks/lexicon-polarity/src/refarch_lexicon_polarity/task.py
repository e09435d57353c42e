"""Read the lexicon and keep related words together."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any, ClassVar

from refarch_text_classification import Corpus, Examples, TextClassification

from refarch import Option
from refarch.errors import DataError
from refarch.tasks import read_text
from refarch_lexicon_polarity import OPTIONS

NAMES = ("negative", "positive")
STEM = 5
"""Letters of a word that decide its split."""
_REINSTALL = "pip install --force-reinstall --no-deps vaderSentiment==3.3.2"
_EXPRESSION = re.compile(r"[a-z]+(?:[-' ][a-z]+)*")


class LexiconPolarity(TextClassification):
    """Is a word positive or negative?

    A word's label is the sign of its mean rating; words rated exactly zero are left out. Kept are words and expressions
    of three letters at least, with hyphens, apostrophes and spaces inside; emoticons are dropped (``xd`` as well as
    ``:-)``). Five words stand twice in the lexicon, with one polarity; the first rating counts.
    """

    declared: ClassVar[tuple[Option, ...]] = OPTIONS

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._roots: frozenset[str] = frozenset()

    def corpus(self) -> Corpus:
        """The words of the lexicon as it is installed."""
        examples = _labelled(lexicon(), float(self.options["minimum_strength"]))
        self._roots = short_words(examples.texts)
        return Corpus(examples, names=NAMES)

    def group(self, text: str) -> str:
        """Inflections share a group, so that none is tested whose sibling was trained on."""
        return stem(text, self._roots)


def lexicon() -> Path:
    """The lexicon's file in the installed package, none of whose code is run.

    Raises:
        DataError: the package is not installed.
    """
    found = importlib.util.find_spec("vaderSentiment")
    if found is None or not found.submodule_search_locations:
        raise DataError("the package vaderSentiment, which carries the lexicon, is not installed", _REINSTALL)
    return Path(next(iter(found.submodule_search_locations))) / "vader_lexicon.txt"


def _labelled(path: Path, minimum: float) -> Examples:
    ratings: dict[str, tuple[float, int]] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        word, _, rest = line.partition("\t")
        if not is_expression(word):
            continue
        try:
            mean = float(rest.split("\t")[0])
        except ValueError:
            raise DataError(f"{path}, line {number}: no mean rating after {word!r}", _REINSTALL) from None
        ratings.setdefault(word.lower(), (mean, number))
    kept = [
        (word, NAMES[mean > 0], number)
        for word, (mean, number) in ratings.items()
        if mean != 0 and abs(mean) >= minimum
    ]
    if not kept:
        raise DataError(f"{path} holds no words", _REINSTALL)
    words, labels, lines = zip(*kept, strict=True)
    return Examples(words, labels, str(path), lines)


def is_expression(token: str) -> bool:
    """Whether a token of the lexicon is a word or an expression, not an emoticon."""
    return _EXPRESSION.fullmatch(token.lower()) is not None and len(_letters(token)) >= 3


def short_words(texts: Any) -> frozenset[str]:
    """The words that are shorter than a stem."""
    return frozenset(letters for letters in map(_letters, texts) if len(letters) < STEM)


def stem(text: str, roots: frozenset[str] = frozenset()) -> str:
    """The first five letters, or the shortest of ``roots`` (words of three or four letters) that they begin with.

    Without the roots ``win`` and ``wins`` would differ. Two texts with the same first five letters always share a stem.
    """
    letters = _letters(text)
    return next((letters[:length] for length in range(1, STEM) if letters[:length] in roots), letters[:STEM])


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text.lower()))
