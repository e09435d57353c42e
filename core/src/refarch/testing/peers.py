"""A technique beside another library's, on one base with equal values; and what rotations of a weight must keep.

The other library is the caller's: it wraps a model and says which of its parameters is which of ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from refarch.engine import Adaptation, Function, Resolver, attach, matrix, put_part, take_part
from refarch.testing.case import randomise
from refarch.testing.models import Tiny, all_tiny, outputs


class Peers(NamedTuple):
    """Our model and the other library's, on one base."""

    tiny: Tiny
    model: PreTrainedModel
    adaptation: Adaptation
    other: nn.Module
    beside: list[tuple[str, Function, nn.Module]]
    """Of each insertion: its address, our function, their layer."""


def tiny_of(family: str) -> Tiny:
    """A family's tiny model under the first of its auto classes."""
    return all_tiny([family])[0]


def plain_slots(tiny: Tiny) -> list[str]:
    """All linear slots that are no parts of fused projections, which other libraries know nothing of."""
    sites = Resolver(tiny.model(), tiny.family).available()
    return [name for name, own in sites.items() if all(s.ref.slot.kind == "linear" and s.end.part is None for s in own)]


def side_by_side(
    technique: str,
    family: str,
    wrap: Callable[[PreTrainedModel, list[str]], nn.Module],
    layer: type,
    **options: Any,
) -> Peers:
    """Attach a technique, and let another library adapt the same modules of an equal model.

    Args:
        technique: its name.
        family: of the tiny model, which is adapted at all of its plain slots.
        wrap: adapts a model's modules, by their paths.
        layer: the class that the other library puts at each of them.
        options: the technique's.
    """
    tiny = tiny_of(family)
    model = tiny.model()
    twin = copy.deepcopy(model)
    adaptation = attach(model, technique, slots=plain_slots(tiny), **options)
    functions = list(adaptation.functions())
    paths = [adaptation.slot_map[address] for address, _ in functions]
    other = wrap(twin, paths).eval()
    modules = dict(other.named_modules())
    layers = [name for name, module in modules.items() if isinstance(module, layer)]
    assert len(layers) == len(paths)
    theirs = [next(modules[name] for name in layers if name.endswith(path)) for path in paths]
    beside = [(address, own, found) for (address, own), found in zip(functions, theirs, strict=True)]
    return Peers(tiny, model, adaptation, other, beside)


def expect_equal_outputs(peers: Peers) -> None:
    """Fail unless both compute the same, which is not what the base computes, and ours does so merged too.

    Both losses are backpropagated, for the caller to compare gradients. Ours stays merged.
    """
    batch = peers.tiny.batch(peers.model, (5, 7))
    wanted = outputs(peers.other, batch)  # type: ignore[arg-type]
    found = outputs(peers.model, batch)
    assert (found - outputs(peers.tiny.model(), batch)).abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    peers.tiny.loss(peers.model, batch).backward()  # type: ignore[no-untyped-call]
    peers.tiny.loss(peers.other, batch).backward()  # type: ignore[arg-type, no-untyped-call]
    peers.adaptation.merge()
    torch.testing.assert_close(outputs(peers.model, batch), wanted, rtol=1e-5, atol=1e-5)


def expect_equal_weights(
    peers: Peers, theirs: Callable[[Function, Any], Mapping[str, nn.Parameter]], scale: float = 0.1
) -> None:
    """Fail unless with equal values outputs, gradients and merged weights are equal.

    Args:
        peers: both models; the other one is peft's, or has its ``merge_and_unload``.
        theirs: of our function and their layer, their parameter for each name of ours.
        scale: of the noise that our values get.
    """
    randomise(peers.adaptation, scale=scale)
    pairs: dict[str, nn.Parameter] = {}
    for address, function, layer in peers.beside:
        own, found = dict(function.named_parameters()), theirs(function, layer)
        assert own.keys() == found.keys()
        for name, parameter in found.items():
            parameter.data.copy_(own[name].data)
            pairs[f"{address}.{name}"] = parameter
    expect_equal_outputs(peers)
    for key, parameter in peers.adaptation.named_parameters():
        assert parameter.grad is not None and parameter.grad.any()
        torch.testing.assert_close(parameter.grad, pairs[key].grad, rtol=1e-5, atol=1e-5)
    peers.adaptation.commit()
    merged = peers.other.merge_and_unload().state_dict()  # type: ignore[operator, union-attr]
    for key, tensor in peers.model.state_dict().items():
        torch.testing.assert_close(tensor, merged[key], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def expect_formula_on_fused_parts(
    technique: str,
    family: str,
    slots: Sequence[str],
    fill: Callable[[Any], object],
    formula: Callable[[Any, Tensor], Tensor],
    **options: Any,
) -> None:
    """Fail unless a technique at parts of a fused projection is what its formula says, and leaves the other parts.

    Args:
        technique: its name.
        family: one whose model has such a projection at these slots.
        slots: where.
        fill: gives a function values.
        formula: of a function and its part's weight [d_in, d_out], the weight that it makes of it.
        options: the technique's.
    """
    tiny = tiny_of(family)
    model, plain = tiny.model(), tiny.model()
    paths = {module: path for path, module in model.named_modules()}
    adaptation = attach(model, technique, slots=list(slots), **options)
    for insertion in adaptation.insertions:
        end = insertion.site.end
        assert end.part is not None
        fill(insertion.function)
        weight = matrix(plain.get_submodule(paths[end.module]))  # d_out d_in
        own = take_part(weight, end.part, 0)
        weight.copy_(put_part(weight, end.part, formula(insertion.function, own.T).T, 0))
    batch = tiny.batch(model, (5, 7))
    torch.testing.assert_close(outputs(model, batch), outputs(plain, batch), rtol=1e-5, atol=1e-5)


def expect_orthogonal(matrix: Tensor) -> None:
    """Fail unless a matrix in double precision is orthogonal."""
    eye = torch.eye(len(matrix), dtype=matrix.dtype)
    torch.testing.assert_close(matrix @ matrix.T, eye, rtol=0, atol=1e-9)
