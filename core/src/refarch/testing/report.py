"""Run checks outside pytest and collect what they showed, as plain data."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from refarch.architecture import Spec, TechniqueSpec
from refarch.errors import RefarchError
from refarch.testing.case import Case, Check, NotApplicable
from refarch.testing.checks import CHECKS
from refarch.testing.models import all_tiny

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

    technique: str
    options: dict[str, Any]
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures()

    def failures(self) -> list[Result]:
        """The results that are no pass and no skip."""
        return [result for result in self.results if result.outcome in ("failed", "error")]


def cases(
    technique: str | TechniqueSpec, options: Mapping[str, Any] | None = None, families: Sequence[str] | None = None
) -> list[Case]:
    """The technique on every family's tiny model under every auto class.

    Args:
        technique: an installed technique's name, or a spec.
        options: choices for ``attach``.
        families: only these families.
    """
    chosen = None if families is None else tuple(families)
    return [Case(technique, tiny, dict(options or {}), chosen) for tiny in all_tiny(chosen)]


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
) -> Report:
    """Run every check of a technique on every model.

    Args:
        technique: an installed technique's name, or a spec.
        options: choices for ``attach``.
        families: only these families.
        exempt: name of a check to the reason why it need not hold.
    """
    results = []
    for check in CHECKS.values():
        for position, case in enumerate(cases(technique, options, families)):
            if not (check.once and position):
                results.append(_result(check, case, (exempt or {}).get(check.name)))
    name = technique if isinstance(technique, str) else technique.name
    return Report(technique=name, options=dict(options or {}), results=tuple(results))


def _result(check: Check[Case], case: Case, exemption: str | None) -> Result:
    started = time.perf_counter()
    outcome, message = "exempt" if exemption else "passed", exemption or ""
    try:
        if not exemption:
            perform(check, case)
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
        model="" if check.once else case.label,
        outcome=outcome,
        message=message,
        seconds=round(time.perf_counter() - started, 3),
    )
