"""How the modules at parts of a fused projection become one module over the whole of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from refarch import InterchangeSpec
from refarch.engine import Insertion
from refarch_interchange.mapping.rules import expanded

Part = tuple[Insertion, dict[str, Tensor]]


@torch.no_grad()
def stacked(mapping: InterchangeSpec, parts: list[Part], options: dict[str, Any]) -> tuple[list[Part], dict[str, Any]]:
    """Low-rank updates of several parts as one of the sum of their ranks: A on top of each other, B beside each other
    with zeros where a part has nothing to say. The same map, to the last bit but for the order of sums.

    Args:
        mapping: whose rules say which tensors belong to output units.
        parts: insertions with their tensors.
        options: with the ``rank`` and ``alpha`` of each part.

    Returns:
        The parts with tensors of the full rank, and the options that give the same scale with it.
    """
    rank, before = sum(_rank(mapping, own) for _, own in parts), 0
    result: list[Part] = []
    common = {
        name: torch.cat([own[name] for _, own in parts])
        for rule in mapping.tensors
        if not rule.rows
        for name in expanded(rule, parts[0][1])
    }
    for insertion, own in parts:
        size = _rank(mapping, own)
        wide = dict(common)
        for rule in mapping.tensors:
            for name in expanded(rule, own) if rule.rows else ():
                wide[name] = own[name]
                if own[name].ndim == 2:
                    wide[name] = torch.nn.functional.pad(own[name], (before, rank - before - size))
        result.append((insertion, wide))
        before += size
    return result, rescaled(options, rank)


def rescaled(options: dict[str, Any], rank: int) -> dict[str, Any]:
    """The options of another rank with the same scale, alpha / r or alpha / sqrt(r)."""
    ratio = rank / options["rank"]
    factor = ratio**0.5 if options.get("rank_stabilised") else ratio
    return {**options, "rank": rank, "alpha": options["alpha"] * factor}


def _rank(mapping: InterchangeSpec, own: dict[str, Tensor]) -> int:
    """The length of what the parts would share."""
    return next(len(own[name]) for rule in mapping.tensors if not rule.rows for name in expanded(rule, own))


def ranks_stacked(
    mapping: InterchangeSpec, parts: list[Part], options: dict[str, Any]
) -> tuple[list[Part], dict[str, Any]]:
    """The same where the scale is the options' at any rank, as AdaLoRA's is."""
    return stacked(mapping, parts, options)[0], options


@torch.no_grad()
def from_weight(own: dict[str, Tensor], options: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """B A - B0 A0 as one product of twice the rank, [B, -B0] [A; A0], beside the base as it is."""
    wide = {
        "down": torch.cat([own["down"], own["down_0"]]),  # 2r d_in
        "up": torch.cat([own["up"], -own["up_0"]], dim=1),  # d_out 2r
    }
    return wide, rescaled(options, 2 * options["rank"])


@torch.no_grad()
def kept(own: dict[str, Tensor], options: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """AdaLoRA's triplets that are left, as saving keeps them."""
    if "kept" not in own:
        return own, options
    there = (own["kept"] > 0) | (own["values"] != 0)  # r
    return {"left": own["left"][:, there], "values": own["values"][there], "right": own["right"][there]}, options
