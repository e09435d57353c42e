"""Matched budgets: the size at which a technique has about so many trainable parameters, found by trying."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refarch import Registry, TechniqueSpec, default_registry
from refarch.errors import SlotError, SpecError, UsageError
from refarch_compare.attached import attached

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_LARGEST = 2**20
"""No size above it is tried."""
_STEPS = 256
"""So many sizes side by side are tried where only some fit: multiples of a number of heads, for example."""


class BudgetError(UsageError):
    """A technique cannot have about so many parameters; the message says the nearest that it can have."""


@dataclass(frozen=True)
class Solved:
    """The nearest that a technique comes to a budget.

    Attributes:
        parameters: trainable parameters of its modules.
        options: all choices that were given, with the size.
        option: the size option; None where the technique has none.
        value: the size.
    """

    parameters: int
    options: dict[str, Any]
    option: str | None = None
    value: int | None = None

    def off(self, budget: int) -> float:
        """How far from the budget, as a share of it."""
        return abs(self.parameters - budget) / budget

    def words(self, technique: str, budget: int) -> str:
        """What the nearest is, for people."""
        share = (self.parameters - budget) / budget
        how = f"at {self.option}={self.value}" if self.option else f"{technique} has no size to choose"
        return f"the nearest to {budget:,} is {self.parameters:,} ({share:+.0%}; {how})"


def solve_budget(
    technique: str | TechniqueSpec,
    backbone: str | PretrainedConfig | PreTrainedModel,
    budget: int,
    *,
    options: Mapping[str, Any] | None = None,
    tolerance: float = 0.1,
    registry: Registry | None = None,
) -> Solved:
    """Choose a technique's size, the option marked ``size=True``, for a budget of trainable parameters.

    What counts are the modules alone, as they are at the start of training: without a task's head, and with what only
    training needs (a prefix's network).

    Args:
        technique: an installed technique's name, or a spec.
        backbone: what :func:`~refarch_compare.cost.backbone.find` understands, a configuration, or a model, best on the
            meta device.
        budget: trainable parameters.
        options: the technique's other options, ``slots``, ``layers`` and ``preset``; a size among them is only where
            the search begins.
        tolerance: how far the nearest size may miss the budget, as a share of it.
        registry: where names are looked up.

    Raises:
        BudgetError: the nearest that the technique can have is farther away; the message says which that is.
        SlotError: the technique does not exist on this backbone.
        SpecError: an option is misspelt or of a wrong type.
    """
    if budget < 1:
        raise UsageError(f"a budget of {budget} trainable parameters leaves nothing to train")
    registry = registry or default_registry()
    spec = registry.technique(technique) if isinstance(technique, str) else technique
    model = _model(backbone, registry)

    def count(choice: dict[str, Any]) -> int:
        with attached(model, spec.configure(choice), registry=registry) as adaptation:
            return adaptation.count()

    solved = nearest(spec, options or {}, count, budget)
    if solved.off(budget) > tolerance:
        raise BudgetError(
            f"technique {spec.name!r} cannot have {budget:,} trainable parameters within {tolerance:.0%} here:"
            f" {solved.words(spec.name, budget)}",
            "give another budget, or change the technique's slots, layers or other options",
        )
    return solved


def _model(backbone: str | PretrainedConfig | PreTrainedModel, registry: Registry) -> PreTrainedModel:
    from transformers import PreTrainedModel

    from refarch_compare.cost import backbone as backbones

    if isinstance(backbone, PreTrainedModel):
        return backbone
    found = backbones.find(backbone, registry) if isinstance(backbone, str) else backbones.of_config(backbone)
    return found.model


def nearest(
    spec: TechniqueSpec,
    options: Mapping[str, Any],
    count: Callable[[dict[str, Any]], int],
    budget: int,
    *,
    at_most: bool = False,
) -> Solved:
    """The size at which a technique has as near as possible ``budget`` trainable parameters.

    Args:
        spec: its size is the integer option that is marked so; without one there is nothing to choose.
        options: all other choices; a size among them is only where the search begins.
        count: trainable parameters with such choices; raises SpecError or SlotError for sizes that do not fit.
        budget: trainable parameters.
        at_most: whether the budget is a limit, so that only what keeps it counts; the smallest where nothing does.

    Raises:
        SpecError: the technique cannot be had with these options at any size that was tried.
    """
    option = next((option for option in spec.options if option.size and option.type == "integer"), None)
    if option is None:
        return Solved(count(dict(options)), dict(options))
    known: dict[int, int | None] = {}

    def at(size: int) -> int | None:
        if size not in known:
            try:
                known[size] = count({**options, option.name: size})
            except (SpecError, SlotError):
                known[size] = None
        return known[size]

    low, high = int(option.minimum or 1), int(option.maximum or _LARGEST)
    _bracket(at, low, high, int(options.get(option.name) or option.default or low), budget)
    _narrow(at, known, budget)
    fitting = [(abs(parameters - budget), size, parameters) for size, parameters in known.items() if parameters]
    if not fitting:
        count(dict(options))  # says why
        raise SpecError(f"technique {spec.name!r} fits at no size of {option.name!r} that was tried")
    kept = [each for each in fitting if each[2] <= budget]
    if at_most:
        fitting = kept or [min(fitting, key=lambda each: (each[2], each[1]))]
    _, size, parameters = min(fitting)
    return Solved(parameters, {**options, option.name: size}, option.name, size)


def _bracket(at: Callable[[int], int | None], low: int, high: int, begin: int, budget: int) -> None:
    """From the smallest size that fits, double it until the counts lie on both sides of the budget or move away."""
    size = _fitting(at, low, high) or _fitting(at, begin, high)
    while size is not None:
        following = _fitting(at, 2 * size, high) or _below(at, size, min(2 * size, high + 1))
        here, there = at(size), at(following) if following is not None else None
        if here is None or there is None or (here >= budget) != (there >= budget):
            return
        if abs(there - budget) > abs(here - budget):
            return
        size = following


def _fitting(at: Callable[[int], int | None], start: int, high: int) -> int | None:
    """The first size from ``start`` on that fits, if it is among the next few."""
    sizes = range(start, min(high, start + _STEPS - 1) + 1)
    return next((size for size in sizes if at(size) is not None), None)


def _below(at: Callable[[int], int | None], low: int, high: int) -> int | None:
    """The largest size between two that fits, if it is among the last few."""
    sizes = range(high - 1, max(low, high - 1 - _STEPS), -1)
    return next((size for size in sizes if at(size) is not None), None)


def _narrow(at: Callable[[int], int | None], known: dict[int, int | None], budget: int) -> None:
    """Halve the gap between the sizes on both sides of the budget, stepping aside from sizes that do not fit."""
    while budget not in known.values():
        counted = sorted((size, parameters) for size, parameters in known.items() if parameters is not None)
        pairs = itertools.pairwise(counted)
        gap = next(((a, b) for (a, x), (b, y) in pairs if min(x, y) < budget < max(x, y)), None)
        if gap is None:
            return
        between = [size for size in range(max(gap[0] + 1, sum(gap) // 2 - _STEPS), gap[1]) if size not in known]
        nearest_first = sorted(between[: 2 * _STEPS], key=lambda size: (abs(size - sum(gap) // 2), size))
        if all(at(size) is None for size in nearest_first[:_STEPS]):
            return
