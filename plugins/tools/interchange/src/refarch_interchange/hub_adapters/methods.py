"""What the library's methods are here: settings that must be so, where the modules stand, and their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from refarch.engine import Site
from refarch.errors import CheckpointError, CompositionError
from refarch_interchange.places import Chosen, Places

Values = dict[str, Tensor]
"""Tensors of a function by their names here."""
ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "swish": "silu", "silu": "silu", "tanh": "tanh"}
PLACES = {
    "attention_adapters": "attention.output",
    "cross_attention_adapters": "cross_attention.output",
    "output_adapters": "ffn.down",
}
"""Where a layer has a child for each place; elsewhere it stands beside the projection whose output it reads."""


class Placed(NamedTuple):
    """A module of theirs: its slot here, and its values."""

    chosen: Chosen
    values: Values


@dataclass
class Method:
    """One of the library's methods as a technique.

    Attributes:
        technique: refarch's name.
        preset: of the technique, if one is meant.
        options: for all modules.
        placed: the modules.
    """

    technique: str
    options: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None
    placed: list[Placed] = field(default_factory=list)


def require(settings: Mapping[str, Any], wanted: Mapping[str, tuple[Any, ...]], what: str) -> None:
    """Refuse a setting whose value means something that there is nothing for here.

    Raises:
        CompositionError: it is named.
    """
    for name, values in wanted.items():
        if name in settings and settings[name] not in values:
            raise CompositionError(
                f"{what} of the adapters library with {name}={settings[name]!r} cannot be expressed; it can with"
                f" {' or '.join(map(repr, values))}"
            )


def by_module(tensors: Mapping[str, Tensor], pool: str, name: str) -> dict[str, Values]:
    """The tensors of each module that has a pool of modules by name (``adapters``, ``loras``): by path and own name."""
    pattern = re.compile(rf"(?P<path>.*?)\.?\b{pool}\.{re.escape(name)}\.(?P<own>.+)")
    found: dict[str, Values] = {}
    for key, tensor in tensors.items():
        match = pattern.fullmatch(key)
        if match:
            found.setdefault(match["path"], {})[match["own"]] = tensor
    return found


def path_in(places: Places, path: str) -> str:
    """A path of theirs in this model, which may have a head where theirs had none, or the reverse."""
    prefix = f"{places.model.base_model_prefix}."
    for option in (path, prefix + path, path.removeprefix(prefix)):
        if option in places.modules:
            return option
    raise CheckpointError(f"the model has no module {path!r}", "is the checkpoint for another base?")


def beside(places: Places, path: str, slots: tuple[str, ...]) -> tuple[str, Site]:
    """The slot whose projection a module of theirs comes after.

    Raises:
        CheckpointError: there is none, or several.
    """
    owner, _, last = path.rpartition(".")
    wanted = (PLACES[last],) if last in PLACES else slots
    start = path_in(places, owner if last in PLACES else path)
    found = [
        (slot, site)
        for slot in wanted
        for site in places.available.get(slot, ())
        if places.path(site.end.module).startswith(f"{start}.")
    ]
    if len(found) != 1:
        raise CheckpointError(f"{path} stands beside {len(found)} of {', '.join(wanted)}", "is it for another base?")
    return found[0]


BOTTLENECK: dict[str, tuple[Any, ...]] = {
    "original_ln_after": (True,),
    "ln_before": (False,),
    "ln_after": (False,),
    "use_gating": (False,),
    "residual_before_ln": (True, False),
    "inv_adapter": (None,),
    "non_linearity": tuple(ACTIVATIONS),
}
COMPACTER: dict[str, tuple[Any, ...]] = {
    "shared_phm_rule": (True,),
    "factorized_phm_rule": (False,),
    "factorized_phm_W": (True, None),
    "shared_W_phm": (False, None),
    "phm_bias": (True, None),
    "scaling": (1.0,),
    "is_parallel": (False,),
}
SUBLAYERS = {"attention.output": "attention", "cross_attention.output": "cross_attention", "ffn.down": "ffn"}


def bottleneck(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], places: Places) -> Method:
    """Adapters after or beside sublayers, and Compacter."""
    parallel, compacter = bool(settings.get("is_parallel")), bool(settings.get("phm_layer"))
    require(settings, BOTTLENECK | (COMPACTER if compacter else {}), "the bottleneck adapter")
    if settings.get("original_ln_before") and not parallel:
        raise CompositionError(
            "the adapters library's Pfeiffer adapter (original_ln_before=True) reads the normed sum with the residual"
            " and adds to the sublayer's output before it; a module here reads what it adds to",
            "train with DoubleSeqBnConfig (Houlsby) or ParBnConfig, which are the same here",
        )
    if not isinstance(settings.get("scaling", 1.0), (int, float)):
        raise CompositionError(f"scaling={settings['scaling']!r}: a scale that is learned has no counterpart")
    scale = float(settings.get("scaling", 1.0))
    method = Method("compacter" if compacter else "adapter", {"activation": ACTIVATIONS[settings["non_linearity"]]})
    if parallel:
        method.preset, method.options["scale"] = "parallel", scale
    for path, theirs in by_module(tensors, "adapters", settings["name"]).items():
        slot, site = beside(places, path, tuple(SUBLAYERS))
        values = _compacter(theirs, tensors, settings) if compacter else _linear(theirs, 1.0 if parallel else scale)
        width = len(values["down.bias"])
        options: dict[str, Any] = {"bottleneck": width}
        if compacter:
            options |= {"kronecker": settings["phm_dim"], "rank": settings.get("phm_rank", 1)}
        if parallel:
            slot = SUBLAYERS[slot]
            site = next(s for s in places.available[slot] if (s.stack, s.shape.layer) == (site.stack, site.shape.layer))
        method.placed.append(Placed(Chosen(slot, site, tuple(sorted(options.items()))), values))
    return method


def _linear(theirs: Values, scale: float) -> Values:
    """A scale of theirs in the last layer, where the technique's form has none."""
    return {
        "down.weight": theirs["adapter_down.0.weight"],
        "down.bias": theirs["adapter_down.0.bias"],
        "up.weight": theirs["adapter_up.weight"] * scale,
        "up.bias": theirs["adapter_up.bias"] * scale,
    }


def _compacter(theirs: Values, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Values:
    """Theirs is the transposed matrix, [in, out] = sum_i A_i (x) (L_i R_i); so are all of its factors."""
    shared = f"shared_parameters.{settings['name']}.phm_rule"
    rule = next((tensor for name, tensor in tensors.items() if name.endswith(shared)), None)
    if rule is None:
        raise CheckpointError("there is no phm_rule among the shared parameters", "the file may be truncated")
    values = {"rule": rule.mT}
    for own, part in (("down", "adapter_down.0"), ("up", "adapter_up")):
        values[f"{own}.left"] = theirs[f"{part}.W_right"].mT  # N out/N r
        values[f"{own}.right"] = theirs[f"{part}.W_left"].mT  # N r in/N
        values[f"{own}.bias"] = theirs[f"{part}.b"]
    return values


LORA: dict[str, tuple[Any, ...]] = {"use_gating": (False,), "vera_d": (None,), "vera_b": (None,)}
FUSED = ("q", "k", "v")


def low_rank(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], places: Places) -> Method:
    """LoRA and DoRA, and (IA)3, which is their LoRA that multiplies."""
    require(settings, {**LORA, "composition_mode": ("add", "scale")}, "LoRA")
    scales, dora = settings.get("composition_mode") == "scale", bool(settings.get("use_dora"))
    if dora and settings["alpha"] != settings["r"]:
        raise CompositionError(
            f"the adapters library's DoRA takes norms without the scale alpha / r, which is {settings['alpha']} /"
            f" {settings['r']} here; DoRA's paper, peft and refarch take them with it",
            "it is the same where alpha equals r",
        )
    options = {} if scales else {"rank": settings["r"], "alpha": settings["alpha"]}
    method = Method("ia3" if scales else "dora" if dora else "lora", options)
    if not scales and not dora:
        method.options["dropout"] = settings.get("dropout") or 0.0
    for path, theirs in by_module(tensors, "loras", settings["name"]).items():
        sites = places.at(path_in(places, path), ("linear",), "LoRA of the adapters library")
        if dora and getattr(sites[0][1].end.module, "bias", None) is not None:
            raise CompositionError(f"the adapters library's DoRA scales the bias of {path} along; refarch's does not")
        if sites[0][1].end.part is None:
            values = _scaled(theirs, settings) if scales else _factors(theirs, dora)
            method.placed.append(Placed(Chosen(sites[0][0], sites[0][1]), values))
        else:
            method.placed.extend(_parts(theirs, sites, settings, path))
    return method


def _scaled(theirs: Values, settings: Mapping[str, Any]) -> Values:
    return {"factors": theirs["lora_B"].flatten() * float(settings.get("alpha", 1))}


def _factors(theirs: Values, dora: bool) -> Values:
    values = {"down": theirs["lora_A"], "up": theirs["lora_B"]}
    if not dora:
        return values
    return {f"update.{name}": value for name, value in values.items()} | {"magnitude": theirs["m.weight"].flatten()}


def _parts(theirs: Values, sites: list[tuple[str, Site]], settings: Mapping[str, Any], path: str) -> list[Placed]:
    """A fused projection: their tensors hold those of the matrices that are adapted, one after another."""
    chosen = [site for letter, site in zip(FUSED, sites, strict=False) if letter in settings["attn_matrices"]]
    parts = [site.end.part for _, site in sites]
    if settings.get("use_dora") or any(part is None or part.groups > 1 or part.of != 3 for part in parts):
        raise CompositionError(f"the LoRA at {path}, a fused projection, cannot be taken apart", "use another backbone")
    if settings.get("composition_mode") == "scale":
        pieces = [{"factors": value} for value in _scaled(theirs, settings)["factors"].chunk(len(chosen))]
    else:
        pairs = zip(theirs["lora_A"].chunk(len(chosen)), theirs["lora_B"].chunk(len(chosen)), strict=True)
        pieces = [{"down": down, "up": up} for down, up in pairs]
    return [Placed(Chosen(slot, site), values) for (slot, site), values in zip(chosen, pieces, strict=True)]


def prefix(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], places: Places) -> Method:
    """Keys and values before those of attention; what makes them while training is run once."""
    require(settings, {"use_gating": (False,)}, "prefix tuning")
    pools = by_module(tensors, "prefix_tunings", settings["name"])
    owner = next((path for path in pools if path.rpartition(".")[2] == "prefix_tuning"), None)
    if owner is None:
        raise CheckpointError("there are no tensors of the model's prefix_tuning", "the file may be truncated")
    two = len({site.stack.name for site in places.available["attention.key_value"] if site.stack}) > 1
    if any(path.endswith("relative_attention_bias") for path in places.modules):
        raise CompositionError(
            "in a model with position biases, the adapters library counts a prefix's tokens in them, refarch does not"
        )
    where = {
        "encoder_prefix": ("attention.key_value", "encoder"),
        "self_prefix": ("attention.key_value", "decoder" if two else None),
        "self": ("attention.key_value", "decoder" if two else None),
        "cross_prefix": ("cross_attention.key_value", "decoder"),
    }
    method = Method("prefix-tuning", {"length": settings["prefix_length"]})
    for kind in sorted({name.split(".")[0] for name in pools[owner]}):
        slot, stack = where[kind]
        own = {name.partition(".")[2]: tensor for name, tensor in pools[owner].items() if name.split(".")[0] == kind}
        sites = [s for s in places.available[slot] if stack is None or (s.stack and s.stack.name == stack)]
        sites = [s for s in sites if not _left_out(settings, places, s)]
        table = _table(own, settings, len(sites))  # l layers 2 d
        for number, site in enumerate(sites):
            values = {"keys": table[:, number, 0], "values": table[:, number, 1]}
            method.placed.append(Placed(Chosen(slot, site), values))
    return method


def _table(own: Values, settings: Mapping[str, Any], layers: int) -> Tensor:
    """[l, layers, 2, d]: given, or what the network makes of its embedding."""
    if "control_trans" in own:
        flat = own["control_trans"]
    else:
        require(settings, {"non_linearity": tuple(ACTIVATIONS)}, "prefix tuning")
        inner = own["wte.weight"] @ own["control_trans.0.weight"].T + own["control_trans.0.bias"]  # l m
        inner = getattr(torch.nn.functional, ACTIVATIONS[settings["non_linearity"]])(inner)
        flat = (inner @ own["control_trans.2.weight"].T + own["control_trans.2.bias"]).flatten()
    try:
        return flat.view(settings["prefix_length"], layers, 2, -1)
    except RuntimeError:
        raise CheckpointError(f"a prefix of {flat.numel()} values does not divide into {layers} layers") from None


def _left_out(settings: Mapping[str, Any], places: Places, site: Site) -> bool:
    return layer_number(places, site) in (settings.get("leave_out") or ())


def layer_number(places: Places, site: Site) -> int:
    """Their number of a layer: those of a second stack count on."""
    before = 0
    if site.stack and site.stack.name == "decoder":
        before = len({s.shape.layer for s in places.available["layer"] if s.stack and s.stack.name == "encoder"})
    return before + (site.shape.layer or 0)


METHODS: dict[str | None, Callable[[Mapping[str, Any], Mapping[str, Tensor], Places], Method]] = {
    None: bottleneck,
    "lora": low_rank,
    "prefix_tuning": prefix,
}
"""By what the file calls ``architecture``."""
UNMAPPED = {
    "prompt_tuning": "its tokens stand after the embedding's positions and norm, a prompt here before them",
    "union": "several methods at once; save them one by one and load each",
    "reft": "its interventions are shared between positions in a way that loreft's are not",
    "mtl_lora": "low-rank updates of several tasks, chosen by the task's number",
}


@torch.no_grad()
def reads_what_it_adds_to(places: Places, slots: set[str]) -> bool:
    """Whether a sublayer's input is the residual that its output is added to: the norm comes after the sum.

    Found out by running the model on a few tokens, since no table says it.
    """
    inner = {"ffn": ("up", "down"), "attention": ("query", "output"), "cross_attention": ("query", "output")}
    return all(_norm_after(places, *(f"{slot}.{name}" for name in (*inner[slot], "norm"))) for slot in slots)


def _norm_after(places: Places, reads: str, ends: str, norm: str) -> bool:
    if not all(places.available.get(slot) for slot in (reads, ends, norm)):
        return False
    seen: dict[str, Tensor] = {}
    sites = {slot: places.available[slot][0].end.module for slot in (reads, ends, norm)}
    hooks = [
        sites[reads].register_forward_hook(lambda m, args, out: seen.__setitem__("in", args[0])),
        sites[ends].register_forward_hook(lambda m, args, out: seen.__setitem__("out", out)),
        sites[norm].register_forward_hook(lambda m, args, out: seen.__setitem__("norm", args[0])),
    ]
    training = places.model.training
    try:
        places.model.eval()(**{name: t.to(places.model.device) for name, t in places.model.dummy_inputs.items()})
    finally:
        places.model.train(training)
        for hook in hooks:
            hook.remove()
    total = seen["in"].flatten(0, -2) + seen["out"].flatten(0, -2)
    return torch.allclose(total, seen["norm"].flatten(0, -2), rtol=1e-4, atol=1e-5)
