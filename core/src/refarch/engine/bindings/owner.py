"""What a binding knows of whatever it belongs to: an adaptation, or a composition."""

from __future__ import annotations

from typing import Protocol


class Owner(Protocol):
    """Whose a binding is. Read-only: who owns switches, the bindings look."""

    @property
    def name(self) -> str:
        """Unique on the model."""

    @property
    def enabled(self) -> bool:
        """Whether it takes part in the model's computation."""

    @property
    def active(self) -> bool:
        """Whether it is enabled, and so is whatever it is a part of."""
