"""The conformance class for techniques."""

from __future__ import annotations

from typing import Any, ClassVar

from refarch.architecture import TechniqueSpec
from refarch.testing.case import Case, Check
from refarch.testing.checks import CHECKS
from refarch.testing.conformance import Conformance
from refarch.testing.report import cases, perform


class TechniqueConformance(Conformance):
    """Everything that must hold for a technique, on the tiny model of every installed backbone family.

    Subclass it in a test module of the plugin::

        class TestMine(TechniqueConformance):
            technique = "my-technique"
            options = {"rank": 4}

    A model that lacks the technique's slots is skipped, with the reason shown.

    Attributes:
        technique: an installed technique's name, or a spec.
        options: choices for ``attach``: the technique's options, ``slots``, ``layers``, ``preset``.
        families: names of the families to test on; None for all that are installed.
        exempt: name of a test to the reason why it need not hold.
    """

    technique: ClassVar[str | TechniqueSpec | None] = None
    options: ClassVar[dict[str, Any]] = {}
    families: ClassVar[tuple[str, ...] | None] = None
    subject = "technique"
    checks = CHECKS

    @classmethod
    def cases(cls) -> list[Case]:
        """The technique on every tiny model."""
        assert cls.technique is not None
        return cases(cls.technique, cls.options, cls.families)

    @classmethod
    def perform(cls, check: Check[Case], case: Case) -> None:
        """Run a check where the technique applies."""
        perform(check, case)
