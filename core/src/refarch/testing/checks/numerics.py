"""Numbers: lower precision, padding, gradient checkpointing."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from transformers import PreTrainedModel

from refarch.engine import Adaptation
from refarch.testing.case import Case, NotApplicable, base_output, collect, expect_equal, randomise
from refarch.testing.models import Batch, outputs

LENGTHS = (5, 9)
CLOSE = 0.25
"""How far a bfloat16 output may be from the float32 one, as a part of the largest value."""


def runs_in_bfloat16(case: Case) -> None:
    """On a bfloat16 base, with float32 or bfloat16 modules, outputs are close to float32's and gradients finite."""
    reference = _reference(case)
    for everything in (False, True):
        model = case.model()
        model.to(dtype=torch.bfloat16)  # type: ignore[call-arg]
        adaptation = case.attach(model)
        randomise(adaptation)
        if everything:
            model.to(dtype=torch.bfloat16)  # type: ignore[call-arg]
        what = f"{case.spec.name!r} with {'bfloat16' if everything else 'float32'} modules on a bfloat16 base"
        _finite(case, model, adaptation, case.batch(model), what, reference)


def runs_under_autocast(case: Case) -> None:
    """Under bfloat16 autocast, outputs are close to float32's and gradients finite."""
    model, adaptation, batch = case.attached()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _finite(case, model, adaptation, batch, f"{case.spec.name!r} under bfloat16 autocast", _reference(case))


def padding_changes_nothing(case: Case) -> None:
    """Real tokens' outputs do not depend on padding: right of an encoder's tokens, left of a decoder's."""
    model, _, _ = case.attached()
    padded, alone = case.batch(model, *LENGTHS), case.batch(model, LENGTHS[0])

    def pair(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
        return case.tiny.real(outputs(model, padded), LENGTHS, 0), outputs(model, alone)[0]

    of_base = pair(case.model())
    if bool((of_base[0] - of_base[1]).abs().max() > 1e-4):
        raise NotApplicable("the base itself is not invariant to padding here")
    expect_equal(
        *pair(model),
        f"with padding in the batch {case.spec.name!r} gives another output for real tokens. It may mix positions only"
        " through the model's own, masked attention",
        1e-4,
    )


def gradient_checkpointing_changes_nothing(case: Case) -> None:
    """With gradient checkpointing (non-reentrant), loss and gradients are equal."""
    if not case.model().supports_gradient_checkpointing:
        raise NotApplicable("the model has no gradient checkpointing")
    results = []
    for checkpointing in (False, True):
        model, adaptation, batch = case.attached()
        if checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # transformers is about to rename it
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loss = case.tiny.loss(model, batch)
            loss.backward()
        results.append({name: p.grad for name, p in adaptation.named_parameters() if p.grad is not None})
        results[-1]["the loss"] = loss.detach()
    plain, recomputed = results
    assert plain.keys() == recomputed.keys(), (
        f"with gradient checkpointing {sorted(plain.keys() ^ recomputed.keys())[:3]} get no gradient"
    )
    for name, gradient in plain.items():
        expect_equal(
            recomputed[name],
            gradient,
            f"gradient of {name} is another one with gradient checkpointing: forward() has an effect that a second call"
            " repeats",
            1e-5,
        )


def _reference(case: Case) -> Tensor:
    model, _, batch = case.attached()
    return outputs(model, batch)


def _finite(
    case: Case, model: PreTrainedModel, adaptation: Adaptation, batch: Batch, what: str, reference: Tensor
) -> None:
    output = outputs(model, batch).float()
    assert bool(torch.isfinite(output).all()), f"{what}: the output is not finite"
    gap, largest = float((output - reference).abs().max()), float(reference.abs().max())
    base = float((base_output(case, batch) - reference).abs().max())
    assert gap <= max(CLOSE * largest, 0.1 * base), (
        f"{what}: the output is off by {gap:.3f}, with values up to {largest:.3f}; is something computed in too low a"
        " precision, or left out?"
    )
    torch.clear_autocast_cache()  # torch 2.6 goes on with weights that were cast where no gradient was wanted
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        case.tiny.loss(model, batch).backward()
    for name, parameter in adaptation.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{what}: {name} gets no gradient"
            assert bool(torch.isfinite(parameter.grad).all()), f"{what}: the gradient of {name} is not finite"


CHECKS = {
    **collect(runs_in_bfloat16, runs_under_autocast, any_head=True),
    **collect(padding_changes_nothing, gradient_checkpointing_changes_nothing),
}
