"""What training does beside descending the task's loss: terms that functions add to it, and schedules, which change a
module's functions between optimizer steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from refarch.engine.functions.experts import own_functions
from refarch.engine.functions.function import Function
from refarch.errors import PluginError, UsageError

if TYPE_CHECKING:
    from refarch.engine.adaptation.adaptation import Adaptation


def _train(adaptation: Adaptation) -> bool:
    """Whether an adaptation takes part in what is trained now."""
    return adaptation.state == "attached" and adaptation.enabled


def _trains(function: Function) -> bool:
    return any(parameter.requires_grad for parameter in function.parameters())


def penalty(adaptation: Adaptation) -> Tensor:
    """See :meth:`Adaptation.penalty`."""
    total = torch.zeros((), device=adaptation.model.device)
    terms: dict[str, list[Tensor]] = {}
    for insertion in adaptation.insertions if _train(adaptation) else ():
        for _, function in own_functions(insertion.function):
            term = function.penalty() if _trains(function) else None
            if term is not None and term.ndim:
                raise PluginError(
                    f"{type(function).__name__}.penalty() gives a tensor of shape {tuple(term.shape)}, not a number",
                    "sum it, or take its mean",
                )
            if term is not None:
                terms.setdefault(insertion.spec.name, []).append(term.to(total.device))
    for own in terms.values():
        total = total + torch.stack(own).mean()
    return total


@torch.no_grad()
def after_step(adaptation: Adaptation, step: int, total: int) -> None:
    """See :meth:`Adaptation.after_step`."""
    if not 1 <= step <= total:
        raise UsageError(f"step {step} of {total}: steps are counted from 1, after each optimizer step")
    for schedule in adaptation.schedules if _train(adaptation) else ():
        if any(_trains(function) for function in schedule.functions.values()):
            schedule.after_step(step, total)
