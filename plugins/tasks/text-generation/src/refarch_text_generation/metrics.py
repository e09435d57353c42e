"""ROUGE by rouge-score (Google's), BLEU and chrF by sacreBLEU, each with any number of references, in percent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
Texts = Sequence[str]
References = Sequence[Sequence[str]]


def measure(
    predictions: Texts, references: References, options: Mapping[str, Any], names: Sequence[str] = ()
) -> dict[str, float]:
    """The metrics of what was written.

    Args:
        predictions: one text a source.
        references: those of each source.
        options: the task's ``stemmer``, ``bleu_tokenizer`` and ``lowercase``.
        names: only these metrics; all when left out.
    """
    wanted = names or (*ROUGE, *CORPUS)
    kinds = [name for name in ROUGE if name in wanted]
    found = rouge(predictions, references, kinds, options["stemmer"]) if kinds else {}
    streams = transposed(references)
    return found | {name: CORPUS[name](list(predictions), streams, options) for name in CORPUS if name in wanted}


def rouge(predictions: Texts, references: References, kinds: Sequence[str], stemmer: bool) -> dict[str, float]:
    """Mean F-measures; of several references the best for each text and kind (``RougeScorer.score_multi``).

    ``rougeLsum`` compares sentences, which rouge-score takes to be lines. A text of one line is cut after each full
    stop, exclamation or question mark, so that models whose tokenizers have no line break are measured alike.
    """
    scorer = RougeScorer(list(kinds), use_stemmer=stemmer)
    rows = [
        scorer.score_multi([_lines(text) for text in true], _lines(prediction))
        for prediction, true in zip(predictions, references, strict=True)
    ]
    return {kind: 100 * float(np.mean([row[kind].fmeasure for row in rows])) for kind in kinds}


def _lines(text: str) -> str:
    text = text.strip()
    return text if "\n" in text else re.sub(r"(?<=[.!?])\s+", "\n", text)


def transposed(references: References) -> list[list[str | None]]:
    """References as sacreBLEU wants them: the first of every source, the second of every source, and so on; None where
    a source has no more.
    """
    most = max(map(len, references), default=0)
    return [[true[place] if place < len(true) else None for true in references] for place in range(most)]


def _bleu(predictions: list[str], streams: Any, options: Mapping[str, Any]) -> float:
    # force: texts that look tokenized are scored without a warning for each
    metric = BLEU(lowercase=options["lowercase"], tokenize=options["bleu_tokenizer"], force=True)
    return float(metric.corpus_score(predictions, streams).score)


def _chrf(predictions: list[str], streams: Any, options: Mapping[str, Any]) -> float:
    return float(CHRF(lowercase=options["lowercase"]).corpus_score(predictions, streams).score)


CORPUS: dict[str, Callable[[list[str], Any, Mapping[str, Any]], float]] = {"bleu": _bleu, "chrf": _chrf}
