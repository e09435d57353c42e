"""Whether a model norms after a sublayer or before it, which decides what the library's parallel adapters read."""

from __future__ import annotations

import torch
from torch import Tensor

from refarch_interchange.places import Places


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
