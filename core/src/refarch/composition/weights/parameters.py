"""Operations on the parameters of adaptations of one structure."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from refarch.architecture.expression import Dare, Operator, Ties, to_text
from refarch.composition.weights.arithmetic import combined, weights_of
from refarch.composition.weights.result import WeightResult
from refarch.composition.weights.updates import low_rank, updates, weight_reasons
from refarch.engine.adaptation import plan as planning
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.adaptation.attach import device_of
from refarch.engine.host.container import only_active
from refarch.engine.host.selection import selected
from refarch.errors import CompositionError


def of_parameters(operator: Operator, parts: list[Adaptation]) -> WeightResult:
    """The operator on each parameter.

    Raises:
        CompositionError: the parts' parameters do not belong to one structure, or weights do not scale what they do.
    """
    first, weights = parts[0], weights_of(operator)
    for other in parts[1:]:
        _require_same(operator, first, other)
    _refuse_scaling(operator, parts, weights)
    still, roots = _doing_nothing(first), _in_products(first)
    values = {}
    for salt, (name, own) in enumerate(first.state_dict().items()):
        if not own.dtype.is_floating_point:
            values[name] = own.clone()
            continue
        rest = still.get(name, torch.zeros_like(own))
        tensors = [part.state_dict()[name].float() - rest.float() for part in parts]
        w = weights
        if name in roots and isinstance(operator, (Ties, Dare)):
            up = roots[name]
            w = [math.copysign(abs(x) ** 0.5, x) if up else abs(x) ** 0.5 for x in weights]
        values[name] = (rest + combined(operator, tensors, w, salt)).to(own.dtype)
    return WeightResult(first.technique, values, like=first, error=_error(operator, parts, values))


def _require_same(operator: Operator, one: Adaptation, other: Adaptation) -> None:
    shapes = [{name: tuple(t.shape) for name, t in part.state_dict().items()} for part in (one, other)]
    if one.modules() == other.modules() and shapes[0] == shapes[1] and _scales(one) == _scales(other):
        return
    names = [n for n in shapes[0].keys() | shapes[1].keys() if shapes[0].get(n) != shapes[1].get(n)]
    where = f" (for one, {sorted(names)[0]})" if names else ""
    raise CompositionError(
        f"{to_text(operator)}: the parameters of {one.name!r} ({one.technique.name}) and {other.name!r}"
        f" ({other.technique.name}) do not belong to one structure{where}",
        "give rank= to combine what they add to weights, or combine them in each forward pass, with sum(...)",
    )


def _scales(part: Adaptation) -> list[float]:
    return [float(item.function.scale) for item in part.insertions]


def _refuse_scaling(operator: Operator, parts: list[Adaptation], weights: list[float]) -> None:
    """Weights that do not sum to one scale what parameters do only where that is linear in them."""
    if math.isclose(sum(weights), 1, abs_tol=1e-6) or isinstance(operator, (Ties, Dare)):
        return
    for part in parts:
        for item in part.insertions:
            spec = item.spec
            if spec.form not in ("vector", "tokens") and spec.integration != "selection":
                raise CompositionError(
                    f"{to_text(operator)}: part {part.name!r} at {item.site.address} (functional form: {spec.form}):"
                    " what it does is not linear in its parameters, so weights that do not sum to one do not scale it",
                    "let the weights sum to one, give rank=, or use sum(...)",
                )


@torch.no_grad()
def _doing_nothing(part: Adaptation) -> dict[str, Tensor]:
    """The values with which factors and copies leave the base as it is."""
    found = {f"base:{path}": selected(part.model)[path].original.detach() for path in part.copies}
    specs = {item.spec.name for item in part.insertions if item.spec.integration in ("rescaling", "transformation")}
    if not specs or part.folded:
        return found
    device = device_of(part.model)
    starts = []
    for seed in (0, 1):  # what differs between two seeds is random, and no start that does nothing
        with only_active(part.model):  # a start from the weight is one from the base's own
            plan = planning.build(part.resolver, part.technique, seed, None, device)
        starts.append(
            {
                f"{i.spec.name}.{i.site.address}.{n}": p
                for i in plan.insertions
                for n, p in i.function.named_parameters()
            }
        )
    for name, value in starts[0].items():
        if name.split(".")[0] in specs and torch.equal(value, starts[1][name]):
            found[name] = value.detach()
    return found


def _in_products(part: Adaptation) -> dict[str, bool]:
    """The parameters that are one of two factors of an update; true for the outer one, which takes the sign."""
    found: dict[str, bool] = {}
    for binding in part.bindings:
        function = low_rank(binding)
        if function is not None:
            prefix = f"{binding.spec.name}.{binding.site.address}"
            found |= {f"{prefix}.up": True, f"{prefix}.down": False}
    return found


def _error(operator: Operator, parts: list[Adaptation], values: dict[str, Tensor]) -> float | None:
    """How far the result's updates of weights are from the weighted sum of the parts'."""
    if any(weight_reasons(part) for part in parts):
        return None
    weights, each = weights_of(operator), [updates(part) for part in parts]
    first = parts[0]
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    first.load_state_dict(values)
    try:
        made = updates(first)
    finally:
        first.load_state_dict(before)
    missed = whole = 0.0
    for address, own in made.items():
        target = torch.stack([w * part[address].delta for w, part in zip(weights, each, strict=True)]).sum(dim=0)
        missed += float((own.delta - target).double().square().sum())
        whole += float(target.double().square().sum())
    return math.sqrt(missed / whole) if whole else 0.0
