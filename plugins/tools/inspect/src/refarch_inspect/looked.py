"""What was found on a model, as plain data, of which everything is printed and drawn. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refarch import FamilySpec
    from refarch_inspect.propose import Proposal


@dataclass(frozen=True)
class Row:
    """A slot on one stack (``""``: of the model), and the module that plays it."""

    stack: str
    slot: str
    kind: str
    entry: str
    """As the table writes it, relative to the layer."""
    module: str = ""
    """The module's class; empty if the slot is not there."""
    d_in: int = 0
    d_out: int = 0
    layers: int = 0
    """At how many of the stack's layers it is; 0 for a slot outside of the layers."""
    reason: str = ""
    """Why it is not there."""

    @property
    def shape(self) -> str:
        """``768 -> 3072``."""
        if not self.d_out:
            return ""
        return str(self.d_out) if self.kind in ("norm", "embedding") else f"{self.d_in} -> {self.d_out}"


@dataclass(frozen=True)
class Stack:
    """A stack as it is drawn."""

    name: str
    layers: str
    count: int
    placed: dict[str, str]
    """Where the norms stand: ``before``, ``inside`` (before the residual is added) or ``after`` their sublayer, or
    ``shared`` with attention."""
    parallel: bool
    uncovered: tuple[str, ...]


@dataclass
class Looked:
    """What was found on a model."""

    model: str
    model_type: str
    family: FamilySpec
    proposed: bool
    rows: list[Row]
    stacks: list[Stack]
    proposal: Proposal | None = None
    notes: list[str] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "model": self.model,
            "model_type": self.model_type,
            "family": self.family.name,
            "proposed": self.proposed,
            "slots": [asdict(row) for row in self.rows],
            "stacks": [asdict(stack) for stack in self.stacks],
            "findings": [asdict(item) for item in self.proposal.findings] if self.proposed and self.proposal else [],
            "notes": self.notes,
            "spec": self.family.model_dump(mode="json"),
        }
