"""What is attached to a model under a name: an adaptation, or a composition of several."""

from __future__ import annotations

import contextlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from transformers import PreTrainedModel

from refarch.engine.host import selection
from refarch.errors import CompositionError

State = Literal["attached", "merged", "detached"]


class Attachment(ABC):
    """Something with a name on a model, that can be switched, merged and taken away.

    Attributes:
        name: unique on the model.
        model: the model, an ordinary transformers model as before.
        state: ``attached``, ``merged`` or ``detached``.
        parts: what it is made of, by name; empty if it is no composition.
    """

    noun: ClassVar[str]
    hints: ClassVar[Mapping[str, str]]
    """For each state, what to do where another one is needed."""
    name: str
    model: PreTrainedModel
    state: State = "detached"
    parts: Mapping[str, Attachment] = {}
    _enabled = True
    renamed: ClassVar[Mapping[str, str]] = {}
    """Old names of attributes, with today's."""

    def __getattr__(self, name: str) -> Any:
        if name not in self.renamed:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        now = self.renamed[name]
        warnings.warn(f"{type(self).__name__}.{name} is now .{now}", DeprecationWarning, stacklevel=2)
        return getattr(self, now)

    @property
    def enabled(self) -> bool:
        """Whether it takes part in the model's computation."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self.require("attached", "switch")
        self._enabled = value
        selection.refresh(self.model)

    @property
    @abstractmethod
    def active(self) -> bool:
        """Whether it computes anything now: it and whatever it is a part of are enabled."""

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """While inside, the model computes without it."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            if self.state == "attached":
                self.enabled = before

    def require(self, state: State, verb: str) -> None:
        """Let something be done in one state alone.

        Raises:
            CompositionError: it is in another one; says what to do first.
        """
        if self.state != state:
            raise CompositionError(
                f"{self.noun} {self.name!r} is {self.state}; cannot {verb} it", self.hints[self.state]
            )
