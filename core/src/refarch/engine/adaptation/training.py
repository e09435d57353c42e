"""What training asks of an adaptation: learning rates of single parameters, what functions add to the loss, and the
schedules that change them between optimizer steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from refarch.architecture import ConfiguredTechnique
from refarch.engine.adaptation.plan import Insertion
from refarch.engine.functions.function import Function, own_parameters
from refarch.engine.functions.schedule import Schedule
from refarch.errors import PluginError, UsageError

Rates = Mapping[nn.Parameter, float]


def rates(
    parameters: Iterable[nn.Parameter], insertions: Sequence[Insertion], technique: ConfiguredTechnique
) -> dict[nn.Parameter, float]:
    """Every trainable parameter and the multiple of the learning rate at which it trains, as the spec's
    ``learning_rate_scale`` says.
    """
    found = {parameter: 1.0 for parameter in parameters if parameter.requires_grad}
    for insertion in insertions:
        for name, scale in technique.learning_rate_scale(insertion.spec).items():
            for parameter in own_parameters(insertion.function, (name,)):  # none if it is folded away
                if parameter in found:  # else the user has frozen it
                    found[parameter] = scale
    return found


def parameter_groups(own: Rates, learning_rate: float) -> list[dict[str, Any]]:
    """Parameters in groups for a torch optimizer, by their rates."""
    by_scale: dict[float, list[nn.Parameter]] = {}
    for parameter, scale in own.items():
        by_scale.setdefault(scale, []).append(parameter)
    return [{"params": members, "lr": learning_rate * scale} for scale, members in by_scale.items()]


def rescale(optimizer: torch.optim.Optimizer, wanted: Rates) -> None:
    """Split the groups of a fresh optimizer where parameters of one group train at different learning rates."""
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        by_scale: dict[float, list[nn.Parameter]] = {} if group["params"] else {1.0: []}
        for parameter in group["params"]:
            by_scale.setdefault(wanted.get(parameter, 1.0), []).append(parameter)
        groups += [{**group, "params": members, "lr": group["lr"] * scale} for scale, members in by_scale.items()]
    optimizer.param_groups[:] = groups


def _trains(function: Function) -> bool:
    return any(parameter.requires_grad for parameter in function.parameters())


def penalty(insertions: Iterable[Insertion], parameters: Iterable[nn.Parameter]) -> Tensor:
    """What functions add to the training loss: for each module the mean over its insertions, summed; where the first of
    the parameters is, if there are any.
    """
    total = torch.zeros((), device=next((parameter.device for parameter in parameters), None))
    terms: dict[str, list[Tensor]] = {}
    for insertion in insertions:
        for _, function in insertion.function.members():
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
def after_step(schedules: Iterable[Schedule], step: int, total: int) -> None:
    """Let schedules act, those whose functions train."""
    if not 1 <= step <= total:
        raise UsageError(f"step {step} of {total}: steps are counted from 1, after each optimizer step")
    for schedule in schedules:
        if any(_trains(function) for function in schedule.functions.values()):
            schedule.after_step(step, total)
