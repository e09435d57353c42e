"""Options that are computed from peft's settings for one module, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refarch_interchange.mapping.settings import Place, by_pattern


def block_size(settings: Mapping[str, Any], place: Place) -> int:
    """Of OFT: given, or the width by the number of blocks."""
    return int(settings.get("oft_block_size") or 0) or place.d_in // int(settings["r"])


def butterfly_block_size(settings: Mapping[str, Any], place: Place) -> int:
    """Of BOFT: given, or the width by the number of blocks."""
    return int(settings.get("boft_block_size") or 0) or place.d_in // int(settings["boft_block_num"])


def factor(settings: Mapping[str, Any], place: Place) -> int | None:
    """Of LoKr: -1 leaves it to the method."""
    given = int(settings.get("decompose_factor", -1))
    return None if given < 0 else given


def factor_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of LoKr: -1 leaves it to the method."""
    return {"decompose_factor": -1 if options["factor"] is None else options["factor"]}


def target_rank(settings: Mapping[str, Any], place: Place) -> int:
    """Of AdaLoRA: peft has no objection to one that is above the rank, which then stays."""
    return min(int(settings["target_r"]), int(settings["init_r"]))


def adalora_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of AdaLoRA: peft wants a number of steps that its schedule fits in, also where nothing trains any more."""
    target = options["target_rank"] or max(1, round(2 * options["rank"] / 3))
    return {"target_r": target, "total_step": options["tinit"] + options["tfinal"] + 1}


def dora_alpha(settings: Mapping[str, Any], place: Place) -> float:
    """Of DoRA: the technique's scale is alpha / r, so with rsLoRA's alpha / sqrt(r) alpha is larger."""
    alpha, rank = (
        settings[name] if found is None else found
        for name, pattern in (("lora_alpha", "alpha_pattern"), ("r", "rank_pattern"))
        for found in (by_pattern(settings.get(pattern) or {}, place.path),)
    )
    return float(alpha * rank**0.5 if settings.get("use_rslora") else alpha)
