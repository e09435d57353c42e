"""Learning rates of single parameters: a spec's ``learning_rate_scale`` as groups of an optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from refarch.engine.functions.experts import own_parameters

if TYPE_CHECKING:
    from refarch.engine.adaptation.adaptation import Adaptation


def scales(adaptation: Adaptation) -> dict[nn.Parameter, float]:
    """Every trainable parameter and the multiple of the learning rate at which it trains."""
    found = {parameter: 1.0 for parameter in adaptation.parameters() if parameter.requires_grad}
    for insertion in adaptation.insertions:
        for name, scale in adaptation.technique.learning_rate_scale(insertion.spec).items():
            for parameter in own_parameters(insertion.function, (name,)):  # none if it is folded away
                if parameter in found:  # else the user has frozen it
                    found[parameter] = scale
    return found


def parameter_groups(adaptation: Adaptation, learning_rate: float) -> list[dict[str, Any]]:
    """See :meth:`Adaptation.parameter_groups`."""
    by_scale: dict[float, list[nn.Parameter]] = {}
    for parameter, scale in scales(adaptation).items():
        by_scale.setdefault(scale, []).append(parameter)
    return [{"params": members, "lr": learning_rate * scale} for scale, members in by_scale.items()]


def rescale(optimizer: torch.optim.Optimizer, adaptations: tuple[Adaptation, ...]) -> None:
    """Split the groups of a fresh optimizer where parameters of one group train at different learning rates."""
    wanted = {parameter: scale for adaptation in adaptations for parameter, scale in scales(adaptation).items()}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        by_scale: dict[float, list[nn.Parameter]] = {} if group["params"] else {1.0: []}
        for parameter in group["params"]:
            by_scale.setdefault(wanted.get(parameter, 1.0), []).append(parameter)
        groups += [{**group, "params": members, "lr": group["lr"] * scale} for scale, members in by_scale.items()]
    optimizer.param_groups[:] = groups
