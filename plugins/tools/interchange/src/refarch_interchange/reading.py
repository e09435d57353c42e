"""Read a peft checkpoint onto a model: its settings as a technique, its tensors as the functions' values."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from refarch import Adaptation, ConfiguredTechnique, FamilySpec, InterchangeSpec, ModuleSpec, Registry, TechniqueSpec
from refarch.errors import CheckpointError, SpecError
from refarch.plugins import default_registry, resolve
from refarch_interchange import extras
from refarch_interchange.attaching import filled
from refarch_interchange.codec import Codec
from refarch_interchange.files import PeftFiles, locate, read
from refarch_interchange.mapping import rules, settings as peft_settings
from refarch_interchange.mapping.mappings import find
from refarch_interchange.mapping.operations import Operation, operation
from refarch_interchange.notes import tell
from refarch_interchange.places import Chosen, Group, Places

KINDS = {"linear": ("linear",), "norm": ("norm",), "attention": ("key_value",), "none": ()}
TRAINING_ONLY = ("lora_dropout", "rank_dropout", "module_dropout", "boft_dropout", "encoder_dropout")


def load_peft(
    model: PreTrainedModel,
    source: str | Path,
    *,
    name: str | None = None,
    trainable: bool = False,
    revision: str | None = None,
    family: FamilySpec | None = None,
    registry: Registry | None = None,
) -> Adaptation:
    """Attach a checkpoint of Hugging Face peft's to a model.

    Args:
        model: the base that it was trained on; peft's files do not tell which, so nothing checks it but shapes.
        source: a folder with ``adapter_config.json`` and ``adapter_model.safetensors``, or a hub id.
        name: the adaptation's name on the model; the technique's when left out.
        trainable: True to go on training it.
        revision: of a hub repository.
        family: a backbone table; found by the model's type when left out.
        registry: where techniques and mappings are looked up.

    Returns:
        The adaptation, with the checkpoint's values.

    Warns:
        Difference: something of the checkpoint's is done otherwise here; the message says what, and how much.

    Raises:
        UsageError: there is no such folder or repository.
        CheckpointError: the files are truncated, a pickle, or do not fit the model.
        CompositionError: refarch has no such technique, or cannot express one of the settings; it is named.
        SlotError: it adapts a module that is no slot. The model is untouched.
    """
    registry = registry or default_registry()
    files = read(locate(source, revision))
    mapping = find(files.settings, registry)
    places = Places.of(model, family, registry)
    codec: Codec = resolve(mapping.codec)() if mapping.codec else Codec()
    modules = _sorted(files, mapping)
    _check_targets(files, mapping, modules, places)
    other = extras.find(_leftover(files, modules, mapping), files, rules.prefix(mapping), places)
    technique = _technique(files, mapping, codec, list(modules), places, registry, other.modules)
    with filled(
        model,
        technique,
        registry,
        plugin=mapping.technique,
        name=name,
        trainable=trainable,
        family=family,
        train_head=other.train_head,
    ) as adaptation:
        _fill(files, mapping, codec, adaptation, modules, other, places)
        _tell(files, mapping)
    return adaptation


def _sorted(files: PeftFiles, mapping: InterchangeSpec) -> dict[str, dict[str, str]]:
    """By path of the module: the rules' names of its tensors, and the tensors' own."""
    sorter = rules.Sorter(mapping)
    modules: dict[str, dict[str, str]] = {}
    for key in sorted(files.tensors):
        found = sorter.find(key)
        if found:
            modules.setdefault(found[0], {})[found[1]] = key
    return modules


def _leftover(files: PeftFiles, modules: dict[str, dict[str, str]], mapping: InterchangeSpec) -> list[str]:
    """Names of tensors that are neither a rule's nor a codec's."""
    done = {key for keys in modules.values() for key in keys.values()}
    return [key for key in files.tensors if key not in done and key.startswith(rules.prefix(mapping))]


def _check_targets(files: PeftFiles, mapping: InterchangeSpec, modules: Any, places: Places) -> None:
    """The modules that the tensors belong to must be those that the settings name."""
    if mapping.targets not in ("linear", "norm"):
        return
    if not modules:
        there = f"; nothing is known of {sorted(files.tensors)[0]}" if files.tensors else ""
        raise CheckpointError(f"{files.where}: there is no tensor of a module of peft's {mapping.kind}{there}")
    answers = {path: peft_settings.targeted(files.settings, "target_modules", path) for path in places.modules}
    if None in answers.values():
        return
    named = {path for path, answer in answers.items() if answer}
    missing, extra = sorted(named - modules.keys()), sorted(modules.keys() - named)
    if missing or extra:
        which = f"names {missing[0]}, which has no tensors" if missing else f"does not name {extra[0]}, which has some"
        raise CheckpointError(
            f"{files.where}: target_modules {which} ({len(missing)} missing, {len(extra)} too many)",
            "the checkpoint is truncated or altered, or belongs to another base",
        )


def _technique(
    files: PeftFiles,
    mapping: InterchangeSpec,
    codec: Codec,
    paths: list[str],
    places: Places,
    registry: Registry,
    others: list[ModuleSpec],
) -> ConfiguredTechnique:
    spec = registry.technique(mapping.technique)
    preset = {"preset": mapping.preset} if mapping.preset else {}
    choices = codec.choices(files, places)
    if mapping.targets == "none" or not paths or "slots" in choices:
        place = peft_settings.Place("", 0, 0)
        found = {**peft_settings.options(mapping, files.settings, place), **choices}
        return _with_modules(spec.configure({**preset, **found}), others)
    chosen = [item for path in paths for item in _chosen(files, mapping, path, places)]
    usual = Counter(item.value for item in chosen)
    # The technique's own options are those of most modules.
    groups = sorted(places.groups(chosen), key=lambda group: -usual[group.value])
    return _with_modules(grouped(spec, preset, groups, choices), others)


def _chosen(files: PeftFiles, mapping: InterchangeSpec, path: str, places: Places) -> list[Chosen]:
    """What of refarch's a module of theirs is."""
    sites = places.at(path, KINDS[mapping.targets], f"peft's {mapping.kind}")
    whole = sites[0][1].end
    d_in = sites[0][1].shape.d_in
    d_out = sum(site.shape.d_out for _, site in sites) if whole.part else sites[0][1].shape.d_out
    options = peft_settings.options(mapping, files.settings, peft_settings.Place(path, d_in, d_out))
    inputs = bool(mapping.inputs) and peft_settings.targeted(
        {**files.settings, "target_modules": files.settings.get(mapping.inputs) or ()}, "target_modules", path
    )
    if whole.part is not None and (mapping.fused == "no" or inputs or len(sites) != whole.part.of):
        raise SpecError(
            f"peft's {mapping.kind} at {path}, one fused projection for {', '.join(slot for slot, _ in sites)}, cannot"
            " be taken apart into them",
            "train it on a backbone whose projections are separate, or at other modules",
        )
    if whole.part is not None:
        tell(f"{path} is one projection for {len(sites)} slots: each gets a module of its own, trained apart")
    value = tuple(sorted(options.items()))
    return [Chosen(f"{slot}:input" if inputs else slot, site, value) for slot, site in sites]


def grouped(
    spec: TechniqueSpec, preset: dict[str, Any], groups: list[Group], choices: dict[str, Any] | None = None
) -> ConfiguredTechnique:
    """The technique with a module spec for each group; where options differ between groups, by its arguments."""
    first = {**dict(groups[0].value), **(choices or {})}
    base = spec.configure({**preset, **first})
    template = base.technique.modules[0]
    routed = set((template.router.model_dump() if template.router else {}).values())
    all_options = {name: f"${name}" for name in base.options if f"${name}" not in routed}
    modules = []
    for number, group in enumerate(groups, 1):
        own = spec.configure({**preset, **dict(group.value), **(choices or {})}).options
        arguments = dict(template.arguments) or all_options
        different = {
            name: own[value[1:]] if isinstance(value, str) and value.startswith("$") else value
            for name, value in arguments.items()
        }
        change = {
            "name": template.name if number == 1 else f"{template.name}_{number}",
            "workspace": group.workspace,
            "layers": group.layers.model_dump(),
            "arguments": template.arguments if own == base.options else different,
        }
        modules.append(ModuleSpec.parse({**template.model_dump(), **change}, f"mapping to {spec.name!r}"))
    whole = base.technique.model_copy(update={"modules": tuple(modules)})
    return ConfiguredTechnique(technique=whole, options=base.options)


def _with_modules(technique: ConfiguredTechnique, others: list[ModuleSpec]) -> ConfiguredTechnique:
    if not others:
        return technique
    spec = technique.technique
    modules = [module.model_dump() for module in (*spec.modules, *others)]
    whole = TechniqueSpec.parse({**spec.model_dump(), "modules": modules}, f"technique {spec.name!r}")
    return ConfiguredTechnique(technique=whole, options=technique.options)


@torch.no_grad()
def _fill(
    files: PeftFiles,
    mapping: InterchangeSpec,
    codec: Codec,
    adaptation: Adaptation,
    modules: dict[str, dict[str, str]],
    other: extras.Extras,
    places: Places,
) -> None:
    codec.prepare(files, adaptation, places)
    for insertion in adaptation.insertions if mapping.tensors else ():
        path = places.path(insertion.site.end.module)
        theirs = {name: files.take(key) for name, key in modules.get(path, {}).items()}
        rules.read(mapping, insertion, theirs, path)
    copied = dict(other.tensors)
    changes: dict[str, Operation] = {}
    if adaptation.technique.technique.modules[0].integration == "selection":
        (rule,) = mapping.tensors
        leaves = {
            (p, n): n.split(".")[-1] if rule.own == "*" else rule.own for p, keys in modules.items() for n in keys
        }
        own = {f"{path}.{leaf}": modules[path][name] for (path, name), leaf in leaves.items()}
        copied, changes = copied | own, dict.fromkeys(own, operation(rule.operation))
    for path, copy in adaptation.copies.items():
        if path not in copied:
            raise CheckpointError(f"{files.where}: there are no values for {path}, which the settings train")
        value = files.take(copied[path])
        value = changes[path].read(value, copy) if path in changes else value
        if value.shape != copy.shape:
            raise CheckpointError(f"{copied[path]} has shape {tuple(value.shape)}, the model's has {tuple(copy.shape)}")
        copy.copy_(value)
    codec.read(files, adaptation, places)
    if files.left:
        raise CheckpointError(f"{files.where}: nothing is known of tensor {sorted(files.left)[0]!r}", "was it altered?")


def _tell(files: PeftFiles, mapping: InterchangeSpec) -> None:
    for name in TRAINING_ONLY:
        if name in mapping.silent and not peft_settings.neutral(files.settings.get(name)):
            tell(f"{name}={files.settings[name]} acts while training alone, and {mapping.technique} has no such option")
