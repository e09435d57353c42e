"""Write an adaptation as a peft checkpoint: its technique as settings, the functions' values as tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from refarch import Adaptation, InterchangeSpec, ModuleSpec, Registry
from refarch.engine import Insertion, matrix
from refarch.errors import CompositionError, RefarchError
from refarch.plugins import default_registry, resolve
from refarch_interchange import beside, files
from refarch_interchange.codec import Codec, Written
from refarch_interchange.mapping import rules
from refarch_interchange.mapping.mappings import mappings
from refarch_interchange.mapping.operations import operation
from refarch_interchange.notes import tell
from refarch_interchange.places import Places, suffixes

SAME = (
    "insertion",
    "integration",
    "input_type",
    "form",
    "function",
    "parameters",
    "routing",
    "router",
    "gate",
    "positions",
    "projected",
    "counted",
)
"""What a module spec has to have in common with that of a mapping's technique, to compute what peft's does."""


class Module(NamedTuple):
    """A module of theirs that is going to be written."""

    path: str
    side: str
    options: dict[str, Any]
    tensors: dict[str, Tensor]
    """By the rules' names."""


@torch.no_grad()
def save_peft(
    adaptation: Adaptation, folder: str | Path, *, base: str | None = None, registry: Registry | None = None
) -> Path:
    """Save an adaptation so that ``PeftModel.from_pretrained(base, folder)`` gives a model that computes the same.

    Args:
        adaptation: attached, of a technique that peft has too.
        folder: made if need be.
        base: what to name as the base model; what the model was loaded from when left out.
        registry: where mappings are looked up.

    Returns:
        The folder, with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Warns:
        Difference: something is done otherwise by peft, or has no word there.

    Raises:
        CompositionError: peft has no such technique, or cannot express one of the options; it is named.
        SaveError: writing failed.
    """
    registry = registry or default_registry()
    mapping = mapping_of(adaptation, registry)
    places = Places(adaptation.model, adaptation.family)
    written_as = next((item for item in mappings(registry) if item.name == mapping.written_as), mapping)
    codec: Codec = resolve(mapping.codec)() if mapping.codec else Codec()
    modules = _modules(adaptation, mapping, written_as, places)
    written = Written(_settings(adaptation, written_as, modules, places, base), _tensors(modules))
    beside.write(adaptation, written_as, [module.path for module in modules], places, written)
    codec.write(adaptation, places, written)
    _tell(adaptation, mapping)
    files.write(Path(folder), written.settings, written.tensors)
    return Path(folder)


def mapping_of(adaptation: Adaptation, registry: Registry) -> InterchangeSpec:
    """The mapping whose module computes what all of the adaptation's modules do.

    Raises:
        CompositionError: there is none.
    """
    own = [module for module in adaptation.technique.technique.modules if not beside.is_extra(adaptation, module)]
    for mapping in mappings(registry):
        if any(name.startswith("train.") and value != "AdamW" for name, value in mapping.when.items()):
            continue
        try:
            template = _template(mapping, registry)
        except RefarchError:  # its technique is not installed
            continue
        if own and all(_same(module, template) for module in own):
            return mapping
    raise CompositionError(
        f"peft has nothing that computes what technique {adaptation.technique.name!r} does in adaptation"
        f" {adaptation.name!r}",
        "refarch convert formats lists what it has",
    )


def _template(mapping: InterchangeSpec, registry: Registry) -> ModuleSpec:
    preset = {"preset": mapping.preset} if mapping.preset else {}
    return registry.technique(mapping.technique).configure({**preset, **mapping.fixed}).technique.modules[0]


def _same(module: ModuleSpec, template: ModuleSpec) -> bool:
    return all(getattr(module, name) == getattr(template, name) for name in SAME)


def _modules(
    adaptation: Adaptation, mapping: InterchangeSpec, written_as: InterchangeSpec, places: Places
) -> list[Module]:
    by_path: dict[str, list[Insertion]] = {}
    for insertion in adaptation.insertions if written_as.tensors else ():
        by_path.setdefault(places.path(insertion.site.end.module), []).append(insertion)
    found = [_module(adaptation, mapping, written_as, path, by_path[path]) for path in sorted(by_path)]
    return found if by_path or not beside.selects(adaptation) else _selected(adaptation, mapping, places)


def _selected(adaptation: Adaptation, mapping: InterchangeSpec, places: Places) -> list[Module]:
    """The modules of a selection, whose parameters are copies."""
    by_path: dict[str, dict[str, Tensor]] = {}
    for name, copy in adaptation.copies.items():
        path, _, leaf = name.rpartition(".")
        if not (adaptation.train_head and places.in_head(name)):
            (rule,) = mapping.tensors
            value = operation(rule.operation).write(copy, "output")
            by_path.setdefault(path, {})[rule.theirs.replace("*", leaf)] = value
    return [Module(path, "output", {}, by_path[path]) for path in sorted(by_path)]


def _module(
    adaptation: Adaptation,
    mapping: InterchangeSpec,
    written_as: InterchangeSpec,
    path: str,
    insertions: list[Insertion],
) -> Module:
    parts: list[tuple[Insertion, dict[str, Tensor]]] = []
    options: dict[str, Any] = {}
    for insertion in insertions:
        own = rules.own_tensors(insertion)
        arguments = {**adaptation.technique.options, **adaptation.technique.arguments(insertion.spec)}
        if mapping.rewrite:
            own, arguments = resolve(mapping.rewrite)(own, arguments)
        if parts and arguments != options:
            raise CompositionError(f"the parts of {path} have other options than each other; peft has one module there")
        parts.append((insertion, own))
        options = arguments
    sides = {insertion.site.ref.side for insertion in insertions}
    if len(sides) > 1 or ("input" in sides and not mapping.inputs):
        raise CompositionError(f"peft's {mapping.kind} cannot work at the input of {path}", "use its output side")
    first = insertions[0].site.end
    if first.part is None:
        if len(insertions) > 1:
            raise CompositionError(f"peft has one module of its {mapping.kind} at {path}, here are {len(insertions)}")
        return Module(path, sides.pop(), options, rules.write(written_as, parts[0][1], insertions[0].site.ref.side))
    whole, options = _whole(written_as, path, parts, options)
    return Module(path, "output", options, rules.write(written_as, whole, "output"))


def _whole(
    mapping: InterchangeSpec, path: str, parts: list[tuple[Insertion, dict[str, Tensor]]], options: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of the function over a whole fused projection."""
    end = parts[0][0].site.end
    assert end.part is not None
    if mapping.fused == "no" or (mapping.fused == "whole" and len(parts) < end.part.of):
        raise CompositionError(
            f"{path} is one projection for {end.part.of} slots, and peft's {mapping.kind} cannot work at"
            f" {len(parts)} of them alone" + (", nor together" if mapping.fused == "no" else ""),
            "choose the slots of all its parts" if mapping.fused == "whole" else None,
        )
    if not rules.shared(mapping, parts):
        if not mapping.join:
            raise CompositionError(f"the parts of {path} share nothing, where peft's {mapping.kind} has one module")
        parts, options = resolve(mapping.join)(mapping, parts, options)
    weight = matrix(end.module)
    return rules.put_together(mapping, parts, len(weight), weight.float().norm(dim=1)), options


def _tensors(modules: list[Module]) -> dict[str, Tensor]:
    return {
        f"{rules.PREFIX}{module.path}.{name}": tensor for module in modules for name, tensor in module.tensors.items()
    }


def _settings(
    adaptation: Adaptation, mapping: InterchangeSpec, modules: list[Module], places: Places, base: str | None
) -> dict[str, Any]:
    """Peft's configuration."""
    settings: dict[str, Any] = {
        "peft_type": mapping.kind,
        "base_model_name_or_path": base or getattr(adaptation.model, "name_or_path", "") or None,
        "inference_mode": True,
        "task_type": None,
    }
    for name, value in mapping.when.items():
        if not name.startswith("train."):
            settings[name] = value[0] if isinstance(value, tuple) else value
    if modules:
        everything = [path for path in places.modules if path]
        settings["target_modules"] = suffixes([module.path for module in modules], everything)
        if mapping.inputs:
            inputs = [module.path for module in modules if module.side == "input"]
            settings[mapping.inputs] = suffixes(inputs, everything)
        if all(type(places.modules[module.path]).__name__ == "Conv1D" for module in modules):
            settings["fan_in_fan_out"] = True
    per_module = {module.path: _named(mapping, module.options) for module in modules}
    return settings | _common(mapping, per_module or {"": _named(mapping, dict(adaptation.technique.options))})


def _named(mapping: InterchangeSpec, options: dict[str, Any]) -> dict[str, Any]:
    """A module's options by their names for them."""
    found = {theirs: _plain(options[own]) for own, theirs in mapping.options.items() if own in options}
    return {**found, **(resolve(mapping.settings)(options) if mapping.settings else {})}


def _plain(value: Any) -> Any:
    """A whole number as one, as peft's own files have it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _common(mapping: InterchangeSpec, modules: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One value for all modules where they agree; else the most frequent, and the others by pattern.

    Raises:
        CompositionError: they differ in something that peft has no pattern for.
    """
    patterns = {mapping.options[own]: setting for own, setting in mapping.patterns.items()}
    result: dict[str, Any] = {setting: {} for setting in patterns.values()}
    for name in next(iter(modules.values())):
        values = [options[name] for options in modules.values()]
        usual = max(values, key=lambda value: (values.count(value), -values.index(value)))
        result[name] = usual
        other = {path: options[name] for path, options in modules.items() if options[name] != usual}
        if other and name not in patterns:
            raise CompositionError(
                f"modules have different values of {name} ({usual!r}, but {next(iter(other.values()))!r} at"
                f" {next(iter(other))}), and peft's {mapping.kind} has one for all",
                "attach them as separate adaptations",
            )
        if other:
            result[patterns[name]] = other
    return result


def _tell(adaptation: Adaptation, mapping: InterchangeSpec) -> None:
    defaults = {option.name: option.default for option in adaptation.technique.technique.options}
    for name in mapping.untold:
        value = adaptation.technique.options.get(name)
        if value != defaults.get(name):
            tell(f"{name}={value!r} has no word in peft's files; what is computed does not depend on it")
    if mapping.written_as:
        tell(mapping.note)
