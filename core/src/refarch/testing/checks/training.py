"""What training may touch, and that it works."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import PreTrainedModel

from refarch.engine import Adaptation, load
from refarch.engine.functions.function import own_parameters
from refarch.errors import PluginError
from refarch.testing.case import (
    Case,
    NotApplicable,
    Snapshot,
    collect,
    evaluate,
    expect_equal,
    randomise,
    train,
    unchanged,
)

STEPS = 15
TRIALS = 4


def only_declared_parameters_train(case: Case) -> None:
    """What trains is what the spec declares, no more and no less; frozen parameters keep their values."""
    model = case.model()
    adaptation = case.attach(model)
    assert adaptation.count() > 0, f"{case.spec.name!r} has no trainable parameter on {case.label}"
    frozen = _frozen(adaptation)
    for name, parameter in adaptation.named_parameters():
        if id(parameter) in frozen:
            assert not parameter.requires_grad, f"{name} is declared frozen in the spec, but requires a gradient"
        else:
            assert parameter.requires_grad, (
                f"{name} requires no gradient, though the spec does not list it in 'frozen'; a value that never trains"
                " is a frozen parameter or a buffer"
            )
    own = {id(parameter) for parameter in adaptation.parameters()}
    strange = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in own]
    assert not strange, f"parameters of the base would train: {', '.join(strange[:5])}"
    before = {name: p.detach().clone() for name, p in adaptation.named_parameters() if id(p) in frozen}
    buffers = {name: b.clone() for name, b in adaptation.tree.named_buffers()}
    train(case, model, case.batch(model), 3)
    after = {**dict(adaptation.named_parameters()), **dict(adaptation.tree.named_buffers())}
    for name, value in {**before, **buffers}.items():
        expect_equal(after[name].detach(), value, f"{name} does not train, but training has changed it")


def base_stays_bit_identical(case: Case) -> None:
    """Base weights are never written: not by attaching, not by training, not by forward passes."""
    model = case.model()
    snapshot = Snapshot(model)
    adaptation = case.attach(model)
    replaced = set(adaptation.copies)
    train(case, model, case.batch(model), 3)
    now = model.state_dict()
    for name, value in snapshot.values.items():
        if name not in replaced and not _tied_to(model, name, replaced):
            expect_equal(now[name], value, f"{case.spec.name!r} writes to the base weight {name}; only merge() may")
    adaptation.detach()
    unchanged(snapshot, model, f"after training and detaching {case.spec.name!r} the base is not as it was")


def gradients_reach_all_parameters(case: Case) -> None:
    """With random values, every trainable parameter gets a gradient that is finite and not zero."""
    model, adaptation, _ = case.attached()
    model.train()
    reached: set[str] = set()
    wanted = {name for name, parameter in adaptation.named_parameters() if parameter.requires_grad}
    for trial in range(TRIALS):  # a unit may be off for all of one batch
        model.zero_grad()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(trial)
            case.tiny.loss(model, case.batch(model, *[7] * 8, seed=trial)).backward()
        for name, parameter in adaptation.named_parameters():
            gradient = parameter.grad
            if name not in wanted:
                continue
            assert gradient is not None, (
                f"{name} gets no gradient: the output does not depend on it. Is it used in forward(), and not detached?"
            )
            assert bool(torch.isfinite(gradient).all()), f"the gradient of {name} is not finite"
            if bool(gradient.any()):
                reached.add(name)
        if reached == wanted:
            return
        randomise(adaptation, seed=20 + trial)
    missed = wanted - reached
    missed -= _unread(case, model, adaptation, missed)
    names = ", ".join(sorted(missed)[:5])
    assert not missed, f"the gradient of {names} is zero everywhere, with random values everywhere"


def overfits_a_batch(case: Case) -> None:
    """A few steps on one batch lower the loss."""
    model = case.model()
    case.attach(model)
    batch = case.batch(model)
    first, last = train(case, model, batch, STEPS // 3)
    for _ in range(2):
        if last >= first - 1e-3 * abs(first):
            last = train(case, model, batch, STEPS // 3)[1]
    assert last < first - 1e-3 * abs(first), (
        f"{STEPS} steps of Adam on one batch bring the loss from {first:.4f} to {last:.4f} only; are the gradients"
        " right, and is the contribution large enough to matter?"
    )


def penalty_trains_its_own_parameters(case: Case) -> None:
    """What functions add to the loss is one finite number that trains their parameters and no others; 0 if disabled."""
    model, adaptation, _ = case.attached()
    try:
        penalty = adaptation.penalty()
    except PluginError as error:
        raise AssertionError(f"the penalty is no finite number: {error}") from None
    assert penalty.shape == () and bool(torch.isfinite(penalty)), f"the penalty is no finite number: {penalty}"
    if not penalty.requires_grad:
        raise NotApplicable("no function of it adds to the loss")
    penalty.backward()
    own = {id(parameter) for parameter in adaptation.parameters()}
    reached = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    strange = [name for name, parameter in model.named_parameters() if name in reached and id(parameter) not in own]
    assert reached and not strange, f"the penalty trains {', '.join(strange[:5]) or 'no parameter'}"
    for name, gradient in reached.items():
        assert bool(torch.isfinite(gradient).all()), f"the penalty's gradient for {name} is not finite"
    with adaptation.disabled():
        assert adaptation.penalty() == 0, "disabled, it still adds to the loss"


def schedule_resumes(case: Case) -> None:
    """Saved for training and loaded between two steps, a module with a schedule goes on to the same values."""
    if not any(module.schedule for module in case.configured.technique.modules):
        raise NotApplicable("no module of it has a schedule")
    _, adaptation, _ = case.attached()
    _steps(case, adaptation, range(1, 4))
    with tempfile.TemporaryDirectory() as folder:
        adaptation.save(Path(folder), for_training=True)
        inline = None if isinstance(case.technique, str) else case.configured
        other = load(case.model(), folder, trainable=True, technique=inline, family=case.tiny.family)
    _steps(case, adaptation, range(4, 7))
    _steps(case, other, range(4, 7))
    for name, value in adaptation.state_dict().items():
        expect_equal(
            other.state_dict()[name],
            value,
            f"{name} has another value after saving, loading and going on. What a schedule remembers must be buffers of"
            " the functions, not attributes of its own",
        )


def _steps(case: Case, adaptation: Adaptation, steps: Iterable[int], total: int = 6) -> None:
    """Some of ``total`` plain steps on one batch, as a user's own loop makes them."""
    trained = [parameter for parameter in adaptation.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for step in steps:
        loss = case.tiny.loss(adaptation.model, case.batch(adaptation.model, seed=step)) + adaptation.penalty()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        adaptation.after_step(step, total)
        optimizer.zero_grad()


def _unread(case: Case, model: PreTrainedModel, adaptation: Adaptation, names: set[str]) -> set[str]:
    """Of parameters with zero gradients, those of modules at some tokens that decide nothing about the loss.

    After the last layer a classifier reads one token, and a decoder's last token predicts nothing. The loss then stays
    bit for bit what it is with other values, so no other gradient is right.
    """
    some = {
        id(parameter)
        for insertion in adaptation.insertions
        if insertion.spec.positions is not None
        for module in (insertion.function, insertion.gate)
        for parameter in (module.parameters() if module is not None else ())
    }
    unread = {name: p for name, p in adaptation.named_parameters() if name in names and id(p) in some}
    batch = case.batch(model)
    before = evaluate(case, model, batch)
    with torch.no_grad():
        for parameter in unread.values():
            parameter.add_(1.0)
    return set(unread) if evaluate(case, model, batch) == before else set()


def _frozen(adaptation: Adaptation) -> set[int]:
    return {
        id(parameter)
        for insertion in adaptation.insertions
        for parameter in own_parameters(insertion.function, insertion.spec.frozen)
    }


def _tied_to(model: torch.nn.Module, name: str, replaced: set[str]) -> bool:
    """Whether another name of the same parameter was replaced by a copy."""
    by_name = dict(model.named_parameters(remove_duplicate=False))
    return any(by_name.get(name) is by_name[other] for other in replaced)


CHECKS = {
    **collect(only_declared_parameters_train, base_stays_bit_identical, gradients_reach_all_parameters),
    **collect(overfits_a_batch, penalty_trains_its_own_parameters, schedule_resumes, any_head=True),
}
