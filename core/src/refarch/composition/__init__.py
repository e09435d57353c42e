"""Composition of adaptations: expressions of operators, derived for every technique from its properties."""

from refarch.composition.combine import combine, to_low_rank
from refarch.composition.compose import compose
from refarch.composition.composition import Composition, compositions
from refarch.composition.export import export
from refarch.composition.judge import Finding, Judgement, judge
from refarch.composition.load import load_composition

__all__ = [
    "Composition",
    "Finding",
    "Judgement",
    "combine",
    "compose",
    "compositions",
    "export",
    "judge",
    "load_composition",
    "to_low_rank",
]
