"""Modules whose weights accelerate keeps elsewhere while they are idle: on disk, or in another memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def _hooks(module: nn.Module) -> Iterator[Any]:
    """Accelerate's hooks at a module."""
    hook = module.__dict__.get("_hf_hook")
    yield from getattr(hook, "hooks", () if hook is None else (hook,))


def value_elsewhere(module: nn.Module, name: str) -> Tensor | None:
    """The value of a module's own parameter that is on the meta device because it is offloaded; None if nobody has it.

    Args:
        module: the module.
        name: of the parameter in it.
    """
    for hook in _hooks(module):
        weights = getattr(hook, "weights_map", None) or {}
        try:
            value: Tensor = weights[name]  # it may be read from disk only now, and say only so whether it is there
        except KeyError:
            continue
        return value
    return None


def execution_device(module: nn.Module) -> torch.device | None:
    """Where a module computes, if accelerate has decided that."""
    for hook in _hooks(module):
        device = getattr(hook, "execution_device", None)
        if device is not None:
            return torch.device(device)
    return None
