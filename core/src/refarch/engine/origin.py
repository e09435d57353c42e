"""What a checkpoint says about where it comes from: how its base is loaded again, and the versions that took part."""

from __future__ import annotations

import functools
from importlib import metadata
from typing import TYPE_CHECKING

from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from refarch.architecture import FamilySpec
from refarch.plugins.registry import default_registry

if TYPE_CHECKING:
    from refarch.engine.adaptation import Adaptation

CORE = ("refarch", "torch", "transformers", "safetensors")
"""Distributions that take part in every checkpoint."""


def auto_class(model: PreTrainedModel, family: FamilySpec) -> str:
    """The name of the transformers auto class that makes models of this class; empty if none does.

    Where several do, it is one that the family names, else the first.
    """
    found = _auto_classes(str(model.config.model_type), type(model).__name__)
    return next((name for name in family.tiny.auto_classes if name in found), found[0] if found else "")


@functools.cache
def _auto_classes(model_type: str, name: str) -> tuple[str, ...]:
    """By the tables of names, which import no model."""
    found = []
    for auto in sorted(entry for entry in vars(modeling_auto) if entry.startswith("AutoModel")):
        names = getattr(getattr(getattr(modeling_auto, auto), "_model_mapping", None), "_model_mapping", {})
        made = names.get(model_type, ())
        if name in ((made,) if isinstance(made, str) else made):
            found.append(auto)
    return tuple(found)


def labels(model: PreTrainedModel) -> dict[int, str]:
    """Names of the labels that the model's head tells apart, by number; empty where it has no such head.

    Every configuration has names for labels, whether the model uses them or not; one that does counts them itself.
    """
    names = getattr(model.config, "id2label", None) or {}
    return {int(number): str(name) for number, name in names.items()} if "num_labels" in vars(model) else {}


def versions(adaptation: Adaptation) -> dict[str, str]:
    """The distributions that made an adaptation and their versions: the core's, and those of the plugins that the
    technique, the functions that it uses and the backbone's table came from.
    """
    functions = [spec.function for spec in adaptation.technique.technique.modules if spec.function]
    packages = {path.partition(":")[0].partition(".")[0] for path in functions}
    names = {*CORE, adaptation.source.distribution}
    for found in default_registry().found:
        table = (found.kind, found.name) == ("backbone", adaptation.family.name)
        if table or found.target.partition(":")[0].partition(".")[0] in packages:
            names.add(found.distribution)
    known = {name: _version(name) for name in sorted(names - {""})}
    return {name: version for name, version in known.items() if version}


@functools.cache
def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
