"""The library's prefix tuning: one tensor, or one network, for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from refarch.engine import Site
from refarch.errors import CheckpointError, CompositionError
from refarch_interchange.hub_adapters.method import (
    ACTIVATIONS,
    Method,
    Placed,
    Values,
    by_module,
    layer_number,
    require,
)
from refarch_interchange.places import Chosen, Places


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
