"""The conformance kit: what plugin authors run on their plugins. Needs the extra ``refarch[testing]`` (pytest).

The checks themselves are plain functions and run without pytest: :data:`refarch.testing.checks.CHECKS`,
:func:`refarch.testing.report.run_checks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refarch._lazy import lazy

if TYPE_CHECKING:
    from refarch.testing.backbone import BackboneConformance
    from refarch.testing.case import Case, NotApplicable
    from refarch.testing.checks import CHECKS
    from refarch.testing.report import Report, Result, run_backbone_checks, run_checks, run_task_checks
    from refarch.testing.task import TaskConformance
    from refarch.testing.technique import TechniqueConformance

_NAMES = {
    "BackboneConformance": "refarch.testing.backbone",
    "TaskConformance": "refarch.testing.task",
    "TechniqueConformance": "refarch.testing.technique",
    "CHECKS": "refarch.testing.checks",
    "Case": "refarch.testing.case",
    "NotApplicable": "refarch.testing.case",
    "Report": "refarch.testing.report",
    "Result": "refarch.testing.report",
    "run_backbone_checks": "refarch.testing.report",
    "run_checks": "refarch.testing.report",
    "run_task_checks": "refarch.testing.report",
}

__all__ = [
    "CHECKS",
    "BackboneConformance",
    "Case",
    "NotApplicable",
    "Report",
    "Result",
    "TaskConformance",
    "TechniqueConformance",
    "run_backbone_checks",
    "run_checks",
    "run_task_checks",
]


def __getattr__(name: str) -> Any:
    return lazy(__name__, name, _NAMES)
