"""Run checks outside pytest and collect what they showed, as plain data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from refarch.architecture import FamilySpec, Spec, TaskSpec, TechniqueSpec
from refarch.errors import RefarchError, UsageError, did_you_mean
from refarch.plugins.registry import default_registry
from refarch.testing.case import Case, Check, NotApplicable
from refarch.testing.checks import CHECKS
from refarch.testing.checks.backbone import BACKBONE_CHECKS
from refarch.testing.checks.table import Backbone
from refarch.testing.checks.task import TASK_CHECKS, TaskCase, task_cases
from refarch.testing.models import Tiny, all_tiny

Outcome = Literal["passed", "failed", "error", "skipped", "exempt"]


class Result(Spec):
    """What one check showed on one model."""

    check: str
    summary: str
    model: str
    """``bert-AutoModelForMaskedLM``; empty for a check of the plugin alone."""
    outcome: Outcome
    message: str = ""
    seconds: float


class Report(Spec):
    """What all checks showed."""

    kind: Literal["technique", "backbone", "task"]
    name: str
    options: dict[str, Any]
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures()

    def failures(self) -> list[Result]:
        """The results that are no pass and no skip."""
        return [result for result in self.results if result.outcome in ("failed", "error")]


HearResult = Callable[[int, int, Result], None]
"""Hears of every result: how many are there, how many there will be, and the result."""


def cases(
    technique: str | TechniqueSpec, options: Mapping[str, Any] | None = None, families: Sequence[str] | None = None
) -> list[Case]:
    """The technique on every family's tiny model under every auto class.

    Args:
        technique: an installed technique's name, or a spec.
        options: choices for ``attach``.
        families: only these families.

    Raises:
        UsageError: no family is installed, so nothing could be checked.
    """
    chosen = None if families is None else tuple(families)
    found = [Case(technique, tiny, dict(options or {}), chosen) for tiny in all_tiny(chosen)]
    if not found:
        raise UsageError(
            "no backbone family is there to check a technique on",
            "install some, for example: pip install refarch-FAMILY",
        )
    return found


def backbone_cases(family: str | FamilySpec, uncovered: Sequence[str] = ()) -> list[Backbone]:
    """The family's tiny model under each of its auto classes, and those of its kin under the first.

    Args:
        family: an installed family's name, or a spec.
        uncovered: paths within a layer of linear layers that need no slot.

    Raises:
        UsageError: the name is that of a pretrained model.
    """
    found = default_registry().family(family) if isinstance(family, str) else family
    name = family if isinstance(family, str) else None
    return [
        Backbone(Tiny(member, auto_class), name, tuple(uncovered))
        for member in (found, *found.relatives())
        for auto_class in member.tiny.auto_classes
    ]


def perform(check: Check[Case], case: Case) -> None:
    """Run one check on one case.

    Raises:
        AssertionError: it fails.
        NotApplicable: there is nothing to check.
    """
    if not check.once:
        case.require()
    check.function(case)


def run_checks(
    technique: str | TechniqueSpec,
    options: Mapping[str, Any] | None = None,
    families: Sequence[str] | None = None,
    exempt: Mapping[str, str] | None = None,
    progress: HearResult | None = None,
) -> Report:
    """Run every check of a technique on every model.

    Args:
        technique: an installed technique's name, or a spec.
        options: choices for ``attach``.
        families: only these families.
        exempt: name of a check to the reason why it need not hold.
        progress: hears of every result.
    """
    name = technique if isinstance(technique, str) else technique.name
    results = _results(CHECKS, cases(technique, options, families), perform, exempt, progress)
    return Report(kind="technique", name=name, options=dict(options or {}), results=results)


def run_backbone_checks(
    family: str | FamilySpec,
    uncovered: Sequence[str] = (),
    exempt: Mapping[str, str] | None = None,
    progress: HearResult | None = None,
) -> Report:
    """Run every check of a backbone family on its tiny models; arguments as of :func:`run_checks`."""
    name = family if isinstance(family, str) else family.name
    results = _results(BACKBONE_CHECKS, backbone_cases(family, uncovered), _plainly, exempt, progress)
    return Report(kind="backbone", name=name, options={}, results=results)


def run_task_checks(
    task: str | TaskSpec,
    options: Mapping[str, Any] | None = None,
    exempt: Mapping[str, str] | None = None,
    progress: HearResult | None = None,
) -> Report:
    """Run every check of a task; arguments as of :func:`run_checks`."""
    name = task if isinstance(task, str) else task.name
    cases = task_cases(task, lambda: dict(options or {}))
    results = _results(TASK_CHECKS, cases, _plainly, exempt, progress)
    return Report(kind="task", name=name, options=dict(options or {}), results=results)


def _plainly(check: Check[Any], case: Any) -> None:
    check.function(case)


def _results(
    checks: Mapping[str, Check[Any]],
    on: Sequence[Any],
    how: Callable[[Check[Any], Any], None],
    exempt: Mapping[str, str] | None,
    progress: HearResult | None,
) -> tuple[Result, ...]:
    exempt = exempt or {}
    for name, reason in exempt.items():
        if name not in checks:
            raise UsageError(f"there is no check {name!r} to exempt from", did_you_mean(name, checks))
        if not reason.strip():
            raise UsageError(f"{name!r} is exempted without a reason", "say why it need not hold")
    pairs = [(check, case) for check in checks.values() for case in check.on(on)]
    results: list[Result] = []
    for check, case in pairs:
        results.append(_result(check, case, how, exempt.get(check.name)))
        if progress:
            progress(len(results), len(pairs), results[-1])
    return tuple(results)


def _result(check: Check[Any], case: Any, how: Callable[[Check[Any], Any], None], exemption: str | None) -> Result:
    started = time.perf_counter()
    outcome: Outcome = "exempt" if exemption else "passed"
    message = exemption or ""
    try:
        if not exemption:
            how(check, case)
    except NotApplicable as reason:
        outcome, message = "skipped", str(reason)
    except AssertionError as error:
        outcome, message = "failed", str(error)
    except Exception as error:  # a plugin's code may raise anything
        prefix = "" if isinstance(error, RefarchError) else f"{type(error).__name__}: "
        outcome, message = "error", f"{prefix}{error}"
    return Result(
        check=check.name,
        summary=check.summary,
        model="" if check.once or (isinstance(case, TaskCase) and case.label == case.spec.name) else case.label,
        outcome=outcome,
        message=message,
        seconds=round(time.perf_counter() - started, 3),
    )
