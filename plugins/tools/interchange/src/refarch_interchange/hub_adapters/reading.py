"""Read a checkpoint of the adapters library onto a model."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from refarch import Adaptation, ConfiguredTechnique, FamilySpec, Registry
from refarch.engine import Insertion
from refarch.errors import CheckpointError, CompositionError
from refarch.plugins import default_registry
from refarch_interchange.attaching import filled
from refarch_interchange.codec import fold_all
from refarch_interchange.files import PeftFiles, locate
from refarch_interchange.hub_adapters import methods, norms
from refarch_interchange.hub_adapters.files import HEADS, NAMES, read
from refarch_interchange.hub_adapters.method import Method, Values, layer_number
from refarch_interchange.mapping.rules import own_tensors
from refarch_interchange.notes import tell
from refarch_interchange.places import Places
from refarch_interchange.reading import grouped


def load_adapters(
    model: PreTrainedModel,
    source: str | Path,
    *,
    name: str | None = None,
    trainable: bool = False,
    revision: str | None = None,
    family: FamilySpec | None = None,
    registry: Registry | None = None,
) -> Adaptation:
    """Attach a checkpoint of the adapters library (AdapterHub) to a model.

    Args:
        model: the base that it was trained on.
        source: a folder with ``adapter_config.json`` and ``adapter.safetensors`` or ``pytorch_adapter.bin`` (of which
            only tensors are loaded), or a hub id.
        name: the adaptation's name on the model; theirs when left out.
        trainable: True to go on training it.
        revision: of a hub repository.
        family: a backbone table; found by the model's type when left out.
        registry: where techniques are looked up.

    Warns:
        Difference: something of the checkpoint's is left out, or done otherwise here.

    Raises:
        UsageError: there is no such folder or repository.
        CheckpointError: the files are damaged, hold more than tensors, or do not fit the model.
        CompositionError: refarch has no such technique, or cannot express one of the settings; it is named.
    """
    registry = registry or default_registry()
    files = read(locate(source, revision, NAMES))
    places = Places.of(model, family, registry)
    method = _method(files, places)
    configured = _technique(method, places, registry)
    label = name or files.settings["name"].replace(".", "-")
    with filled(
        model, configured, registry, plugin=method.technique, name=label, trainable=trainable, family=family
    ) as adaptation:
        if any(insertion.spec.train_only for insertion in adaptation.insertions):
            fold_all(adaptation)
        _fill(adaptation, method)
        _tell(files, places.family.kind != "encoder")
    return adaptation


def _method(files: PeftFiles, places: Places) -> Method:
    kind = files.settings.get("architecture")
    if kind not in methods.METHODS:
        reason = methods.UNMAPPED.get(str(kind), "nothing is known of it")
        raise CompositionError(f"refarch has no technique that is the adapters library's {kind!r}: {reason}")
    try:
        method = methods.METHODS[kind](files.settings, files.tensors, places)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{files.where}: a tensor or setting is missing: {error}", "is it truncated?") from None
    _check_layers(files, method, places)
    sublayers = {item.chosen.slot for item in method.placed} if method.preset == "parallel" else set()
    if not norms.reads_what_it_adds_to(places, sublayers):
        raise CompositionError(
            "the adapters library's parallel adapter reads the residual stream; in a model that norms before a"
            " sublayer, that is not what the sublayer reads, and a parallel module here reads what the sublayer does",
            "it can be loaded on models that norm after (BERT and kin)",
        )
    return method


def _check_layers(files: PeftFiles, method: Method, places: Places) -> None:
    """Every place must have its module in all layers but those that the settings leave out."""
    left_out = set(files.settings.get("leave_out") or ())
    there: dict[tuple[str, str], set[int]] = {(slot, stack): set() for slot, stack in _expected(files, method, places)}
    for item in method.placed:
        site = item.chosen.site
        stack = str(site.stack.name) if site.stack else ""
        there.setdefault((item.chosen.slot, stack), set()).add(layer_number(places, site))
    if not method.placed:
        raise CheckpointError(f"{files.where}: there is no tensor of {files.settings['name']!r}", "is it truncated?")
    for (slot, stack), layers in there.items():
        sites = places.available[slot]
        wanted = {layer_number(places, s) for s in sites if s.stack and s.stack.name == stack} - left_out
        if wanted != layers:
            missing = sorted(wanted ^ layers)
            raise CheckpointError(f"{files.where}: {slot} has no module in layer {missing[0]}", "is it truncated?")


def _expected(files: PeftFiles, method: Method, places: Places) -> set[tuple[str, str]]:
    """Slots and stacks that the settings speak of; those of a prefix are what is there."""
    if files.settings.get("architecture") == "prefix_tuning":
        return set()
    names = {"mh_adapter": "attention", "output_adapter": "ffn", "cross_adapter": "cross_attention"}
    slots = {item.chosen.slot for item in method.placed}
    ends = {"attention": "attention.output", "ffn": "ffn.down", "cross_attention": "cross_attention.output"}
    named = {slot for name, slot in names.items() if files.settings.get(name)}
    slots |= {slot if method.preset == "parallel" else ends[slot] for slot in named}
    return {(slot, str(s.stack.name)) for slot in slots for s in places.available.get(slot, ()) if s.stack}


def _technique(method: Method, places: Places, registry: Registry) -> ConfiguredTechnique:
    spec = registry.technique(method.technique)
    preset = {"preset": method.preset} if method.preset else {}
    groups = places.groups(item.chosen._replace(value=item.chosen.value or ()) for item in method.placed)
    return grouped(spec, preset, groups, method.options)


@torch.no_grad()
def _fill(adaptation: Adaptation, method: Method) -> None:
    by_place = {(item.chosen.slot, item.chosen.site.address): item.values for item in method.placed}
    for insertion in adaptation.insertions:
        site = insertion.site
        _copy(insertion, by_place[str(site.ref), site.address])


def _copy(insertion: Insertion, values: Values) -> None:
    own = own_tensors(insertion)
    if own.keys() != values.keys():
        raise CheckpointError(f"{insertion.site.address}: tensors {sorted(own.keys() ^ values.keys())} do not match")
    for name, value in values.items():
        if own[name].shape != value.shape:
            raise CheckpointError(
                f"{insertion.site.address}: {name} has shape {tuple(value.shape)}, where {tuple(own[name].shape)} is"
                " expected",
                "is it for another base?",
            )
        own[name].copy_(value)


def _tell(files: PeftFiles, causal: bool) -> None:
    if any((Path(files.where) / name).is_file() for name in HEADS):
        tell("the checkpoint has a prediction head, which is not read; only the adapter is")
    if files.settings.get("architecture") == "prefix_tuning" and causal:
        tell(
            "the adapters library masks a causal prefix wrongly where attention is sdpa and nothing is padded; the"
            " outputs are those of its eager attention"
        )
    for name in ("dropout", "stochastic_depth"):
        if files.settings.get(name) and files.settings.get("architecture") != "lora":
            tell(f"{name}={files.settings[name]} acts while training alone, and is left out")
