"""What the library's methods are here: settings that must be so, where the modules stand, and their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from refarch.engine import Site
from refarch.errors import CheckpointError, CompositionError
from refarch_interchange.hub_adapters.method import (
    ACTIVATIONS,
    Method,
    Placed,
    Values,
    beside,
    by_module,
    path_in,
    require,
)
from refarch_interchange.hub_adapters.prefixes import prefix
from refarch_interchange.places import Chosen, Places

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
