"""Exact match and F1 of answers in percent, as SQuAD's official scripts count them (Rajpurkar et al. 2016, 2018)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def normalized(text: str) -> str:
    """Lower case, without punctuation (ASCII's), articles and extra blanks."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(answer: str, true: str) -> float:
    """1 where both are the same once normalized."""
    return float(normalized(answer) == normalized(true))


def overlap(answer: str, true: str, unanswerable: bool) -> float:
    """F1 of the words that both have.

    Args:
        answer: what was answered.
        true: one of the right answers.
        unanswerable: whether an empty answer is one, as in SQuAD 2.0: then two empty ones agree.
    """
    given, right = normalized(answer).split(), normalized(true).split()
    if unanswerable and not (given and right):
        return float(given == right)
    shared = sum((Counter(given) & Counter(right)).values())
    return 2 * shared / (len(given) + len(right)) if shared else 0.0  # = 2 p r / (p + r)


def score(answers: Sequence[str], true: Sequence[Sequence[str]], unanswerable: bool) -> dict[str, float]:
    """Exact match and F1, the best over the right answers of each question and the mean over questions.

    Args:
        answers: one a question; empty for no answer.
        true: the right answers of each question; none where it has no answer.
        unanswerable: whether to count as for SQuAD 2.0, and by whether a question has an answer too.

    Raises:
        ValueError: there are no questions, or as many answers as not.
    """
    if not answers or len(answers) != len(true):
        raise ValueError(f"{len(answers)} answers to {len(true)} questions")
    each: dict[str, list[float]] = {}
    for answer, right in zip(answers, true, strict=True):
        # SQuAD 2.0 leaves out answers of which nothing is left, and takes nothing where none is
        golds = [gold for gold in right if normalized(gold)] if unanswerable else list(right)
        golds = golds or [""]
        values = {
            "f1": max(overlap(answer, gold, unanswerable) for gold in golds),
            "exact_match": max(exact(answer, gold) for gold in golds),
        }
        part = "answerable" if right else "unanswerable"
        for name, value in values.items():
            each.setdefault(name, []).append(value)
            if unanswerable:
                each.setdefault(f"{part}_{name}", []).append(value)
    return {name: 100 * sum(values) / len(values) for name, values in each.items()}
