"""The platform's own errors. Each says what happened, why, and what to do about it.

The command line shows the message without a traceback and exits with ``exit_code``: 2 for wrong use, 1 for a
failed run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RefarchError(Exception):
    """Base of every error that refarch raises on purpose.

    Args:
        message: what happened and why.
        hint: what the user can do about it, shown on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.message, self.hint))


class UsageError(RefarchError):
    """The request cannot be carried out as it was written."""

    exit_code = 2


class SpecError(UsageError):
    """A spec or an option does not validate."""


class UnknownNameError(UsageError):
    """No plugin, slot or option has this name."""


class PluginError(UsageError):
    """A plugin is broken, blocked, or in conflict with another one."""


class SlotError(UsageError):
    """A requested slot is missing on this model, or a technique cannot work at it."""


class CompositionError(UsageError):
    """Adaptations cannot be combined, merged or removed in the way asked for."""


class DataError(UsageError):
    """A data file is missing, malformed or does not fit the task."""


class CheckpointError(RefarchError):
    """A checkpoint is truncated, altered, or does not fit the model."""


class SaveError(RefarchError):
    """Writing failed; what was saved before is untouched."""


class RunError(RefarchError):
    """A run failed; the message says where its last good state is."""


class BusyError(RunError):
    """Another process is at it; what it holds is free again when it ends, however it ends."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The names in ``known`` most like ``name``, best first."""
    return difflib.get_close_matches(name, sorted(set(known)), n=count, cutoff=0.5)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint sentence naming the nearest of ``known``, or all of them when they are few."""
    names = sorted(set(known))
    close = nearest(name, names)
    if close:
        return "did you mean " + " or ".join(repr(n) for n in close) + "?"
    if not names:
        return "there are none"
    return "known: " + ", ".join(names[:30])
