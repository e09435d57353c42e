"""What a user may call a model. Needs no torch, so commands ask it first."""

from __future__ import annotations

from pathlib import Path

from refarch import FamilySpec, Registry
from refarch.architecture import BackboneChoice
from refarch.plugins import locate


def meant(name: str, registry: Registry) -> FamilySpec | str:
    """The family of this name, or where a model is: a configuration file, a folder, or a hub id or model type.

    Args:
        name: what the user wrote.
        registry: where plugins are looked up.

    Raises:
        UsageError: it is a path that does not exist, or a folder without a configuration.
    """
    if any((item.kind, item.name) == ("backbone", name) for item in registry.found):
        family = registry.backbone(name)
        if isinstance(family, FamilySpec):
            return family
    return name if Path(name).is_file() else locate(BackboneChoice.parse({"name": name}, "the model"), registry)
