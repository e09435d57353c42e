"""In which precision a module computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on where x is; torch refuses the question for the meta device."""
    kind = x.device.type
    return kind != "meta" and torch.is_autocast_enabled(kind)


def parameter_dtype(module: nn.Module, default: torch.dtype) -> torch.dtype:
    """The dtype of a module's parameters."""
    for parameter in module.parameters():
        return parameter.dtype
    return default


def cast_for(module: nn.Module, x: Tensor) -> Tensor:
    """X in the dtype that the module computes in; autocast, where it is on, decides instead."""
    dtype = parameter_dtype(module, x.dtype)
    if x.dtype == dtype or not x.dtype.is_floating_point or autocasts(x):
        return x
    return x.to(dtype)
