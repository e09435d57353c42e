"""Composition of adaptations: expressions of operators, derived for every technique from its properties."""

from refarch.engine.compose.composition import Composition, compositions
from refarch.engine.compose.make import compose

__all__ = ["Composition", "compose", "compositions"]
