"""Every check of a technique, in the order in which an author best reads failures."""

from refarch.testing.case import Case, Check
from refarch.testing.checks import algebra, generation, life, numerics, start, training

CHECKS: dict[str, Check[Case]] = {
    **start.ONCE,
    **start.CHECKS,
    **training.CHECKS,
    **life.CHECKS,
    **algebra.CHECKS,
    **numerics.CHECKS,
    **generation.CHECKS,
}
"""Name to check."""

__all__ = ["CHECKS"]
