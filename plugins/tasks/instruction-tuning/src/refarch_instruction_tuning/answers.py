"""Answers that a model has written against the true ones."""

from __future__ import annotations

import re
from decimal import Decimal

FINAL = "####"
"""What stands before the final number of an answer of GSM8K."""
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?|-?\.\d+")


def number(text: str) -> Decimal | None:
    """The final number of an answer: the first one after ``####``, or the last one where there is no such mark."""
    _, mark, after = text.rpartition(FINAL)
    found = _NUMBER.findall(after.replace("$", "") if mark else text.replace("$", ""))
    if not found:
        return None
    return Decimal((found[0] if mark else found[-1]).replace(",", ""))


def same(written: str, true: str, match: str) -> bool:
    """Whether an answer is right.

    Args:
        written: by the model.
        true: from the data.
        match: ``number`` or ``text``.
    """
    if match == "number":
        return number(written) is not None and number(written) == number(true)
    return " ".join(written.split()) == " ".join(true.split())
