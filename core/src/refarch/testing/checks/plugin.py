"""Checks of whatever a plugin provides, be it a technique, a backbone's table or a task."""

from __future__ import annotations

from typing import Protocol

from refarch.architecture import Spec
from refarch.plugins.discovery import Kind
from refarch.testing.case import NotApplicable
from refarch.testing.light import expect_light


class Provided(Protocol):
    """What a check works on, so far as it is an installed plugin's."""

    @property
    def plugin(self) -> tuple[Kind, str] | None:
        """Kind and name of the plugin; None for a spec that was given as such."""


def light_import(case: Provided) -> None:
    """Importing the plugin and calling its hook imports no torch."""
    if case.plugin is None:
        raise NotApplicable("an inline spec belongs to no plugin")
    expect_light(*case.plugin)


def survives_json(spec: Spec, label: str) -> None:
    """Fail if a spec is another one after its way through JSON."""
    again = type(spec).from_json(spec.to_json())
    assert again == spec, f"{label!r}: the spec changes on its way through JSON; use plain values only"
