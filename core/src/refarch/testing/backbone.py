"""The conformance class for backbone families."""

from __future__ import annotations

from typing import Any, ClassVar

from refarch.architecture import FamilySpec
from refarch.errors import UsageError
from refarch.plugins.registry import default_registry
from refarch.testing.checks.backbone import BACKBONE_CHECKS
from refarch.testing.checks.table import Backbone
from refarch.testing.conformance import Conformance
from refarch.testing.models import Tiny


class BackboneConformance(Conformance):
    """Everything that must hold for a backbone family's table, on its tiny model under each of its auto classes.

    Subclass it in a test module of the plugin::

        class TestBert(BackboneConformance):
            family = "bert"

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
        found = default_registry().backbone(cls.family) if isinstance(cls.family, str) else cls.family
        if not isinstance(found, FamilySpec):
            raise UsageError(f"{cls.family!r} is no backbone family", "name a family, not a pretrained model")
        name = cls.family if isinstance(cls.family, str) else None
        return [Backbone(Tiny(found, auto_class), name, cls.uncovered) for auto_class in found.tiny.auto_classes]
