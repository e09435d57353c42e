"""What the three conformance classes share: tests generated from checks, exemptions, visible skips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from refarch.errors import UsageError, did_you_mean
from refarch.testing.case import Check, NotApplicable
from refarch.testing.sample import CHOICE


class Conformance:
    """Base of the conformance classes; has one test method for each check.

    Attributes:
        exempt: name of a test to the reason why it need not hold; the test is skipped with that reason.
    """

    exempt: ClassVar[dict[str, str]] = {}
    checks: ClassVar[dict[str, Check[Any]]] = {}
    subject: ClassVar[str] = ""
    """The attribute that a subclass sets: ``technique``, ``family`` or ``task``."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "checks" in cls.__dict__:
            for check in cls.checks.values():
                setattr(cls, f"test_{check.name}", _method(check))
            return
        names = [name.removeprefix("test_") for name in cls.exempt]
        unknown = [name for name in names if name not in cls.checks]
        if unknown:
            hint = did_you_mean(unknown[0], cls.checks)
            raise UsageError(f"{cls.__name__} exempts {unknown[0]!r}, but there is no such test", hint)
        empty = [name for name, reason in cls.exempt.items() if not reason.strip()]
        if empty:
            raise UsageError(f"{cls.__name__} exempts {empty[0]!r} without a reason", "say why it need not hold")
        if getattr(cls, cls.subject, None) is None:
            raise UsageError(f"{cls.__name__} does not say what it tests", f"set the class attribute {cls.subject!r}")

    @classmethod
    def cases(cls) -> list[Any]:
        """What the tests run on; each has a ``label``."""
        raise NotImplementedError

    @classmethod
    def perform(cls, check: Check[Any], case: Any) -> None:
        """Run a check on a case."""
        check.function(case)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test for each check and case."""
        if "case" not in metafunc.fixturenames:
            return
        cls = type(self)
        if "_cases" not in cls.__dict__:
            cls._cases = cls.cases()  # type: ignore[attr-defined]
        cases: list[Any] = cls.__dict__["_cases"]
        name, chosen = metafunc.function.__name__.removeprefix("test_"), metafunc.config.stash.get(CHOICE, None)
        if chosen is not None:
            cases = [case for case in cases if chosen(cls, name, case)]
        check = cls.checks.get(name)
        if check is not None:
            cases = list(check.on(cases))
        once = check is not None and check.once
        metafunc.parametrize("case", cases, ids=["plugin"] if once else [case.label for case in cases])


def _method(check: Check[Any]) -> Callable[[Conformance, Any], None]:
    def test(self: Conformance, case: Any) -> None:
        __tracebackhide__ = True
        reasons = {name.removeprefix("test_"): reason for name, reason in self.exempt.items()}
        if check.name in reasons:
            pytest.skip(f"exempt: {reasons[check.name]}")
        try:
            self.perform(check, case)
        except NotApplicable as reason:
            pytest.skip(f"not applicable: {reason}")

    test.__name__ = f"test_{check.name}"
    test.__qualname__ = f"Conformance.{test.__name__}"
    test.__doc__ = check.summary
    return test
