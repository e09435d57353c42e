"""What a checkpoint says about where it comes from: how its base is loaded again, and the versions that took part."""

from __future__ import annotations

import functools
from importlib import metadata

from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from refarch.architecture import ConfiguredTechnique, FamilySpec, TechniqueSpec
from refarch.engine.checkpoints.format import Source
from refarch.plugins.registry import Registry, default_registry

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


def source(technique: ConfiguredTechnique, registry: Registry) -> Source:
    """The plugin that a configured technique came from: the one of its name, if that declares the functions that it
    uses; none otherwise.
    """
    found = [item for item in registry.found if (item.kind, item.name) == ("technique", technique.name)]
    if len(found) != 1 or found[0].status == "blocked" or registry.load_quietly(found[0]).error is not None:
        return Source()
    used = import_paths(technique.technique)
    known = import_paths(registry.technique(technique.name), presets=True)
    return Source(distribution=found[0].distribution, version=found[0].version) if used <= known else Source()


def import_paths(spec: TechniqueSpec, presets: bool = False) -> set[str]:
    """The import paths of all code that a technique's modules name.

    Args:
        spec: the technique.
        presets: whether to look into its presets too.
    """
    fields = ("function", "schedule")
    found = {getattr(module, field) for module in spec.modules for field in fields}
    for preset in spec.presets.values() if presets else ():
        found |= {module.get(field) for module in preset.get("modules", ()) for field in fields}
    return found - {None}


def labels(model: PreTrainedModel) -> dict[int, str]:
    """Names of the labels that the model's head tells apart, by number; empty where it has no such head.

    Every configuration has names for labels, whether the model uses them or not; one that does counts them itself.
    """
    names = getattr(model.config, "id2label", None) or {}
    return {int(number): str(name) for number, name in names.items()} if "num_labels" in vars(model) else {}


def versions(technique: TechniqueSpec, source: Source, family: FamilySpec) -> dict[str, str]:
    """The distributions that make an adaptation and their versions: the core's, and those of the plugins that the
    technique, the functions that it uses and the backbone's table come from.
    """
    packages = {path.partition(":")[0].partition(".")[0] for path in import_paths(technique)}
    names = {*CORE, source.distribution}
    for found in default_registry().found:
        table = (found.kind, found.name) == ("backbone", family.name)
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
