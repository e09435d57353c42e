"""The conformance kit: what plugin authors run on their plugins. Needs the extra ``refarch[testing]`` (pytest).

The checks themselves are plain functions and run without pytest: :data:`refarch.testing.checks.CHECKS`,
:func:`refarch.testing.report.run_checks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refarch._lazy import lazy, names

if TYPE_CHECKING:
    from refarch.testing.backbone import BackboneConformance as BackboneConformance
    from refarch.testing.case import (
        Case as Case,
        NotApplicable as NotApplicable,
        Snapshot as Snapshot,
        randomise as randomise,
    )
    from refarch.testing.checks import CHECKS as CHECKS
    from refarch.testing.checks.backbone import PROBE_CHECKS as PROBE_CHECKS
    from refarch.testing.checks.generation import ahead_reason as ahead_reason
    from refarch.testing.light import expect_light as expect_light
    from refarch.testing.models import (
        Batch as Batch,
        Tiny as Tiny,
        all_tiny as all_tiny,
        outputs as outputs,
        primary as primary,
        spread as spread,
    )
    from refarch.testing.peers import (
        Peers as Peers,
        expect_equal_outputs as expect_equal_outputs,
        expect_equal_weights as expect_equal_weights,
        expect_formula_on_fused_parts as expect_formula_on_fused_parts,
        expect_orthogonal as expect_orthogonal,
        side_by_side as side_by_side,
        tiny_of as tiny_of,
    )
    from refarch.testing.probes import ADAPTER as ADAPTER, PARALLEL as PARALLEL, PROBES as PROBES
    from refarch.testing.report import (
        Report as Report,
        Result as Result,
        run_backbone_checks as run_backbone_checks,
        run_checks as run_checks,
        run_task_checks as run_task_checks,
    )
    from refarch.testing.sample import covering as covering, forms as forms, missing as missing
    from refarch.testing.task import TaskConformance as TaskConformance
    from refarch.testing.technique import TechniqueConformance as TechniqueConformance
    from refarch.testing.tokenizer import tiny_tokenizer as tiny_tokenizer

_FROM = {
    "refarch.testing.backbone": "BackboneConformance",
    "refarch.testing.task": "TaskConformance",
    "refarch.testing.technique": "TechniqueConformance",
    "refarch.testing.checks": "CHECKS",
    "refarch.testing.checks.backbone": "PROBE_CHECKS",
    "refarch.testing.checks.generation": "ahead_reason",
    "refarch.testing.case": "Case NotApplicable Snapshot randomise",
    "refarch.testing.light": "expect_light",
    "refarch.testing.models": "Batch Tiny all_tiny outputs primary spread",
    "refarch.testing.peers": (
        "Peers expect_equal_outputs expect_equal_weights expect_formula_on_fused_parts "
        "expect_orthogonal side_by_side tiny_of"
    ),
    "refarch.testing.probes": "ADAPTER PARALLEL PROBES",
    "refarch.testing.sample": "covering forms missing",
    "refarch.testing.report": "Report Result run_backbone_checks run_checks run_task_checks",
    "refarch.testing.tokenizer": "tiny_tokenizer",
}
__all__ = names(_FROM)  # pyright: ignore[reportUnsupportedDunderAll]


if not TYPE_CHECKING:  # a type checker would take any name from a module with __getattr__

    def __getattr__(name: str) -> Any:
        return lazy(__name__, name, _FROM)
