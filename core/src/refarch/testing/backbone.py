"""The conformance class for backbone families."""

from __future__ import annotations

from typing import Any, ClassVar

from refarch.architecture import FamilySpec
from refarch.testing.checks.backbone import BACKBONE_CHECKS
from refarch.testing.checks.table import Backbone
from refarch.testing.conformance import Conformance
from refarch.testing.report import backbone_cases


class BackboneConformance(Conformance):
    """Everything that must hold for a backbone family's table, on its tiny model under each of its auto classes.

    Subclass it in a test module of the plugin::

        class TestMine(BackboneConformance):
            family = "my-family"

    Attributes:
        family: an installed family's name, or a spec.
        uncovered: paths within a layer of linear layers that no slot names, and that need none.
        exempt: name of a test to the reason why it need not hold.
    """

    family: ClassVar[str | FamilySpec | None] = None
    uncovered: ClassVar[tuple[str, ...]] = ()
    subject = "family"
    checks: ClassVar[dict[str, Any]] = BACKBONE_CHECKS

    @classmethod
    def cases(cls) -> list[Backbone]:
        """The family's tiny model under each auto class."""
        assert cls.family is not None
        return backbone_cases(cls.family, cls.uncovered)
