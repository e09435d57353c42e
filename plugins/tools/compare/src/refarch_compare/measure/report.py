"""What is measured, and under which conditions. Needs no torch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from refarch.architecture import Spec


class Setting(Spec):
    """The conditions, the same for the frozen backbone and for all techniques."""

    batch: int = Field(8, ge=1)
    """Sequences at once."""
    tokens: int = Field(64, ge=1)
    """Of each sequence, none of them padding; an encoder-decoder writes as many as it reads."""
    rounds: int = Field(7, ge=2)
    """In each of which everything has its turn, in a new order; one more before them warms up."""
    steps: int = Field(3, ge=1)
    """Of each turn, after one that is not timed; their median counts."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """float32 runs in the backbone's own dtype; the others under autocast."""
    threads: int | None = Field(None, ge=1)
    """Torch's threads on CPU; as a run would take them when left out."""
    seed: int = Field(0, ge=0, lt=2**31)


class Spread(Spec):
    """A median over rounds, with the quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least two values."""
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median=middle, low=low, high=high)


class Cost(Spec):
    """Seconds and bytes of one training step and one call."""

    step_seconds: Spread
    """Forward pass, backward pass and AdamW's update of what trains. For the frozen backbone: forward pass and the
    gradients of the embedded inputs, which whatever trains inside the backbone must pay."""
    inference_seconds: Spread
    """One forward pass in evaluation mode, without a cache."""
    peak_bytes: int
    """The most that tensors take in a training step: model, modules, optimizer state, gradients and activations."""
    saved_activation_bytes: int
    """Kept from the forward pass for the backward pass, parameters and inputs not counted."""


class Measured(Cost):
    """One configuration, relative to the frozen backbone of the same rounds."""

    label: str
    techniques: tuple[dict[str, Any], ...]
    """Name and options of each."""
    step_ratio: Spread
    """To the frozen backbone's step of the same round."""
    inference_ratio: Spread
    trainable_parameters: int
    module_parameters: int
    """Without the head that trains along."""
    saved_bytes: int
    """Of the saved modules."""
    load_seconds: Spread
    """From files to attached and ready, with all checks, that of the base's identity among them."""
    swap_seconds: Spread | None
    """From one to another that is attached too: one switched off, the other on; None if the model holds no two."""
    runs: tuple[str, ...] = ()
    """Folders of runs of this configuration."""

    def measures(self, setting: Setting) -> dict[str, float]:
        """The same as named numbers, as they stand in a run's ``measures.json``."""
        found: dict[str, float] = {
            "step_peak_bytes": self.peak_bytes,
            "saved_activation_bytes": self.saved_activation_bytes,
            "module_load_seconds": self.load_seconds.median,
            "measured_batch": setting.batch,
            "measured_tokens": setting.tokens,
        }
        for name in ("step_ratio", "inference_ratio"):
            spread: Spread = getattr(self, name)
            found |= {name: spread.median, f"{name}_low": spread.low, f"{name}_high": spread.high}
        if self.swap_seconds is not None:
            found["module_swap_seconds"] = self.swap_seconds.median
        return found


class Failed(Spec):
    """A configuration that could not be measured."""

    label: str
    reason: str
    runs: tuple[str, ...] = ()


class Report(Spec):
    """All configurations on one backbone."""

    backbone: str
    auto_class: str
    setting: Setting
    device: str
    threads: int
    base_bytes: int
    """Of the backbone's parameters and buffers."""
    frozen: Cost
    measured: tuple[Measured, ...]
    failed: tuple[Failed, ...] = ()
    versions: dict[str, str]
    when: str
