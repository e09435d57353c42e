"""Composition of adaptations: expressions of operators, derived for every technique from its properties."""

from refarch.engine.compose.combine import combine, to_low_rank
from refarch.engine.compose.composition import Composition, compositions
from refarch.engine.compose.files import load_composition
from refarch.engine.compose.judge import Finding, Judgement, judge
from refarch.engine.compose.make import compose
from refarch.engine.compose.merging import export

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
