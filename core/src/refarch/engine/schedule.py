"""What training does beside descending the task's loss: terms that functions add to it, and schedules, which change a
module's functions between optimizer steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from refarch.engine.function import Function
from refarch.engine.routing import own_functions
from refarch.errors import PluginError, UsageError

if TYPE_CHECKING:
    from refarch.engine.adaptation import Adaptation


class Schedule:
    """Changes all functions of one module together after each optimizer step: shares a budget out among them, say.

    A module spec names it in ``schedule``. It keeps nothing itself: what it has to remember are buffers of the
    functions, so that they travel with the model and a checkpoint holds them; those that only training needs are named
    in the spec's ``train_only`` and dropped by the functions' ``fold``. What it decides may depend on these, on the
    parameters, on their gradients and on the step alone, so that a resumed run, and every process of a distributed
    one, decides the same.

    Args:
        functions: the module's functions on a model, by address, in the order of the slots.
        options: the keyword arguments with which these were built.
    """

    def __init__(self, functions: Mapping[str, Function], **options: Any) -> None:
        self.functions = dict(functions)

    def after_step(self, step: int, total: int) -> None:
        """Change the functions, without recording gradients.

        Args:
            step: how many optimizer steps have been made, from 1 to ``total``; the gradients are the last one's.
            total: how many there will be.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no after_step()")


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
