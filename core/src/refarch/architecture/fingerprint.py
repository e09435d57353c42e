"""Which base an adaptation was trained on, as it stands in checkpoints; ``engine/host/fingerprint.py`` takes it."""

from __future__ import annotations

from refarch.architecture.spec import Spec


class Fingerprint(Spec):
    """A base model's identity.

    ``structure`` covers names and shapes of the backbone's parameters, quantised ones as they would be without;
    ``content`` covers sampled values too. The head is left out, because it may be new. ``dtype`` is what the values are
    stored in: only where that is the same, two bases' values can be compared.
    """

    model_class: str
    model_type: str
    name_or_path: str
    parameters: int
    dtype: str
    structure: str
    content: str

    def differs(self, other: Fingerprint) -> str:
        """In words, how ``other`` is another base; empty if it is the same one."""
        if self.model_type != other.model_type:
            return f"its model type is {self.model_type}, this model's is {other.model_type}"
        if self.structure != other.structure:
            return f"it has {self.parameters:,} backbone parameters, this model {other.parameters:,}, or other shapes"
        if self.dtype == other.dtype and self.content != other.content:
            return f"same architecture, but other weights (it was trained on {self.name_or_path or 'an unnamed model'})"
        return ""
