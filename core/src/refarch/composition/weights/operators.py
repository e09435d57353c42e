"""Weight operators: several adaptations made into one, once; the result is an ordinary adaptation.

What an operator works on follows from what its parts are:

================================  ====================================================================================
``rank`` is given, or ``svd``     what the parts add to each weight matrix; the result is the nearest product of rank r
products of two matrices          for linear, average and concat: side by side, which is their weighted sum, exactly
prompts, prefixes, for concat     their tokens, one part's after another's
anything else                     the parameters, which must have the same names and shapes
================================  ====================================================================================

Parameters of factors and copies are combined by how far they are from doing nothing (a factor of one, the base's own
value), so that a weight scales what they do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from refarch.architecture import ConfiguredTechnique, TechniqueSpec
from refarch.architecture.expression import Concat, Dare, Operator, Ties
from refarch.composition.weights.arithmetic import combined, truncated, truncated_product, weights_of
from refarch.composition.weights.parameters import of_parameters
from refarch.composition.weights.result import WeightResult
from refarch.composition.weights.tokens import of_tokens
from refarch.composition.weights.updates import Update, Updates, is_low_rank, slot_address, updates, workspace
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.functions.core_techniques import LOW_RANK
from refarch.errors import CompositionError

PartsByName = Mapping[str, Adaptation]


@torch.no_grad()
def make(operator: Operator, parts: PartsByName, into: TechniqueSpec | None = None) -> WeightResult:
    """What a weight operator over parts gives.

    Args:
        operator: its terms are names of parts.
        parts: by name.
        into: the technique of a result that is a product of two matrices; the core's own when left out.

    Raises:
        CompositionError: it is impossible for these parts; the slots and properties are named.
    """
    own = [parts[str(term.of)] for term in operator.terms]
    rank: int | None = operator.rank  # type: ignore[attr-defined]
    products = all(is_low_rank(part) for part in own)
    if rank is not None:
        return _of_updates(operator, own, rank, into)
    if products and not isinstance(operator, (Ties, Dare)):
        return _of_updates(operator, own, None, into)
    if isinstance(operator, Concat):
        return of_tokens(operator, own)
    return of_parameters(operator, own)


def _of_updates(
    operator: Operator, parts: list[Adaptation], rank: int | None, into: TechniqueSpec | None
) -> WeightResult:
    weights = weights_of(operator)
    each = [updates(part) for part in parts]
    addresses = sorted({address for own in each for address in own})
    found: Updates = {}
    missed = whole = 0.0
    for salt, address in enumerate(addresses):
        target = _target(operator, [own.get(address) for own in each], weights, salt)
        up, down = _nearest(target, rank)
        found[address] = Update(up @ down, None, (up, down))
        missed += Update(target.delta - up @ down, target.bias).norm()
        whole += target.norm()
    widest = _widest(found, rank)
    technique = _configured(into or LOW_RANK, parts, found, widest)
    error = math.sqrt(missed / whole) if whole else 0.0
    exact = rank is None or all(update.factors[0].shape[1] < rank for update in found.values() if update.factors)
    return WeightResult(technique, None, found, None, 0.0 if exact and error < 1e-6 else error)


def _widest(found: Updates, rank: int | None) -> int:
    """The rank that the result is given: the one asked for, or what its factors need, where the one asked for is more
    than some weight has.
    """
    needed = max(update.factors[0].shape[1] for update in found.values() if update.factors)
    smallest = min(min(update.delta.shape) for update in found.values())
    return needed if rank is None or rank > smallest else rank


def _target(operator: Operator, here: list[Update | None], weights: list[float], salt: int) -> Update:
    """What the operator asks for at one slot."""
    there = [update for update in here if update is not None]
    linear = not isinstance(operator, (Ties, Dare))
    if linear and all(update.factors is not None for update in there):
        pairs = [(w, update.factors) for w, update in zip(weights, here, strict=True) if update and update.factors]
        up, down = torch.cat([w * f[0] for w, f in pairs], dim=1), torch.cat([f[1] for _, f in pairs])
        return Update(up @ down, None, (up, down))
    zero = torch.zeros_like(there[0].delta)
    delta = combined(operator, [zero if update is None else update.delta for update in here], weights, salt)
    biases = [update.bias if update is not None else None for update in here]
    like = next((bias for bias in biases if bias is not None), None)
    if like is None:
        return Update(delta)
    filled = [torch.zeros_like(like) if bias is None else bias for bias in biases]
    return Update(delta, combined(operator, filled, weights, salt))


def _nearest(target: Update, rank: int | None) -> tuple[Tensor, Tensor]:
    if target.factors is None:
        assert rank is not None
        return truncated(target.delta, rank)
    return target.factors if rank is None else truncated_product(*target.factors, rank)


def _configured(spec: TechniqueSpec, parts: list[Adaptation], found: Updates, rank: int) -> ConfiguredTechnique:
    size = next((option.name for option in spec.options if option.size), None)
    if size is None or len(spec.modules) != 1:
        raise CompositionError(
            f"technique {spec.name!r} cannot hold an update of a chosen rank: no option of it is its size"
        )
    sites = {
        slot_address(binding.site): (
            str(binding.site.ref.slot.name),
            binding.site.stack.name if binding.site.stack else "",
            int(binding.site.shape.layer or 0),
        )
        for part in parts
        for binding in part.bindings
    }
    slots, layers = workspace({address: sites[address] for address in found}, parts[0].resolver.counts)
    return spec.configure({size: rank, "slots": slots, "layers": layers})
