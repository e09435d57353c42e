"""All mappings: the plugin's own table, then what plugins of techniques contribute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refarch import InterchangeSpec, Registry
from refarch.errors import CompositionError, did_you_mean
from refarch_interchange.mapping.settings import TRAINING, match
from refarch_interchange.mapping.table import PEFT
from refarch_interchange.mapping.unmapped import UNMAPPED

FORMAT = "peft"
HANDLED = (
    "bias",
    "exclude_modules",
    "fan_in_fan_out",
    "layers_pattern",
    "layers_to_transform",
    "modules_to_save",
)
"""Settings that reading takes care of for every technique: by them, or by the tensors that follow from them."""


def mappings(registry: Registry) -> list[InterchangeSpec]:
    """Every mapping between techniques and peft's, in the order in which they are tried."""
    return [*PEFT, *registry.interchanges(FORMAT)]


def find(settings: Mapping[str, Any], registry: Registry) -> InterchangeSpec:
    """The mapping of a configuration.

    Raises:
        CompositionError: there is none; with the reason.
    """
    kind = str(settings["peft_type"])
    known = mappings(registry)
    found = match(settings, known, TRAINING, HANDLED)
    if found.mapping is not None:
        return found.mapping
    if found.reason:
        raise CompositionError(f"peft's {kind} with these settings cannot be expressed: {found.reason}")
    kinds = sorted({mapping.kind for mapping in known})
    if kind in kinds:
        wanted = "; or ".join(
            ", ".join(f"{name}={value!r}" for name, value in item.when.items()) for item in known if item.kind == kind
        )
        raise CompositionError(f"peft's {kind} with these settings has no counterpart; it has one with {wanted}")
    reason = UNMAPPED.get(kind)
    if reason:
        raise CompositionError(f"refarch has no technique that is peft's {kind}: {reason}")
    raise CompositionError(f"nothing is known of peft's type {kind!r}", did_you_mean(kind, kinds))
