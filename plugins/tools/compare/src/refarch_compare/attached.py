"""A technique on a model for as long as something is asked of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import refarch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from refarch import Adaptation, ConfiguredTechnique


@contextlib.contextmanager
def attached(model: PreTrainedModel, technique: ConfiguredTechnique, **choices: Any) -> Iterator[Adaptation]:
    """Attach, and detach at the end, whatever happens; see :func:`refarch.attach`."""
    adaptation = refarch.attach(model, technique, **choices)
    try:
        yield adaptation
    finally:
        adaptation.detach()
