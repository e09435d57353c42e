"""Find entries by what they say about themselves."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from refarch.errors import UsageError
from refarch_library.entry import Entry

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_SCORE = re.compile(r"^\s*(>=|<=|>|<|=)?\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*$")


@dataclass(frozen=True)
class Query:
    """What is wanted; an entry must fit all of it.

    Attributes:
        text: words, each of which its name, description, techniques, task or backbone must contain.
        technique: a pattern (``lora``, ``*tuning``) that one of its techniques must fit.
        slot: a pattern (``attention.*``) that one of its slots must fit.
        backbone: a pattern for the backbone's name or its last part, its family or its model type.
        task: a pattern.
        licence: a pattern.
        score: a number with or without an operator before it: ``>=0.8`` (or ``0.8``), ``<2``.
    """

    text: str = ""
    technique: str | None = None
    slot: str | None = None
    backbone: str | None = None
    task: str | None = None
    licence: str | None = None
    score: str | None = None

    def finds(self, entry: Entry) -> bool:
        """Whether an entry fits.

        Raises:
            UsageError: the score is no number with an operator.
        """
        base = entry.base
        fields: list[tuple[str | None, Sequence[str]]] = [
            (self.technique, [part.technique for part in entry.parts]),
            (self.slot, [slot for part in entry.parts for slot in part.workspace]),
            (self.backbone, [base.name, base.short, base.family, base.fingerprint.model_type]),
            (self.task, [entry.task]),
            (self.licence, [entry.licence]),
        ]
        if not all(pattern is None or _any(pattern, values) for pattern, values in fields):
            return False
        if self.score is not None and not _compare(self.score, entry.record.score):
            return False
        words = " ".join([entry.name, entry.description, entry.label, entry.task, base.name]).lower()
        return all(word in words for word in self.text.lower().split())


def search(entries: Sequence[Entry], query: Query) -> list[Entry]:
    """The entries that fit, of each task the best first.

    Raises:
        UsageError: the query is not understood.
    """
    found = [entry for entry in entries if query.finds(entry)]

    def place(entry: Entry) -> tuple[str, str, float, str]:
        score = entry.record.score
        return entry.task, entry.record.metric, -score if entry.record.greater_is_better else score, entry.name

    return sorted(found, key=place)


def _any(pattern: str, values: Sequence[str]) -> bool:
    return any(fnmatchcase(value.lower(), pattern.lower()) for value in values)


def _compare(text: str, score: float) -> bool:
    match = _SCORE.match(text)
    try:
        limit = float(match[2]) if match else None
    except ValueError:
        limit = None
    if match is None or limit is None:
        raise UsageError(f"--score {text!r} is not understood", "write an operator and a number: '>=0.8', '<2'")
    return OPERATORS[match[1] or ">="](score, limit)
