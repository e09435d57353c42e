"""An adaptation's life beside training: save, load, disable, detach, copy, stack."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

from refarch.engine import adaptations, load
from refarch.testing.case import Case, Snapshot, base_output, collect, differ, expect_equal, randomise, train, unchanged
from refarch.testing.models import outputs


def eval_is_deterministic(case: Case) -> None:
    """Two forward passes in evaluation mode give the same."""
    model, _, batch = case.attached()
    expect_equal(
        outputs(model, batch),
        outputs(model, batch),
        f"{case.spec.name!r} gives two results for one input in evaluation mode. Use self.training to switch what is"
        " random, and keep no state between calls",
    )


def save_and_load_round_trip(case: Case) -> None:
    """A saved adaptation with random values, trained a step, gives equal outputs on a fresh base."""
    model, adaptation, batch = case.attached()
    train(case, model, batch, 1)
    expected = outputs(model, batch)
    folds = any(insertion.spec.train_only for insertion in adaptation.insertions)
    with tempfile.TemporaryDirectory() as folder:
        adaptation.save(Path(folder))
        other = case.model()
        inline = None if isinstance(case.technique, str) else case.configured
        loaded = load(other, folder, technique=inline, family=case.tiny.family)
    expect_equal(
        outputs(other, batch),
        expected,
        f"{case.spec.name!r} gives another output after save and load. Everything that decides the output must be a"
        " parameter, a registered buffer, or follow from options and shape" + (", and fold() must keep it" * folds),
        1e-5 if folds else 0.0,
    )
    if not folds:
        for name, value in adaptation.state_dict().items():
            expect_equal(loaded.state_dict()[name], value, f"{name} has another value after save and load")


def detach_restores_the_model(case: Case) -> None:
    """Detaching gives the model back: outputs, parameters, class, attributes, hooks, what trains."""
    model = case.model()
    next(iter(model.parameters())).requires_grad_(False)  # a choice of the user's that has to come back
    batch, snapshot = case.batch(model), Snapshot(model)
    before = outputs(model, batch)
    adaptation = case.attach(model)
    randomise(adaptation)
    outputs(model, batch)
    assert type(model) is snapshot.facts[f"class of {type(model).__name__}"], "attaching changes the model's class"
    adaptation.detach()
    unchanged(snapshot, model, f"after detaching {case.spec.name!r} the model is not as it was")
    expect_equal(outputs(model, batch), before, f"after detaching {case.spec.name!r} the output is not the base's")


def disabled_equals_base(case: Case) -> None:
    """While disabled, an adaptation with random values does nothing; enabled again, it does what it did."""
    model, adaptation, batch = case.attached()
    base, expected = base_output(case, batch), outputs(model, batch)
    assert differ(expected, base), (
        f"with random values {case.spec.name!r} still does not change the output: forward() does not use its parameters"
    )
    with adaptation.disabled():
        expect_equal(outputs(model, batch), base, f"disabled, {case.spec.name!r} does not give the base's output")
    expect_equal(outputs(model, batch), expected, f"enabled again, {case.spec.name!r} gives another output than before")


def deepcopy_is_independent(case: Case) -> None:
    """A deep copy of the model carries its own adaptation."""
    model, adaptation, batch = case.attached()
    expected = outputs(model, batch)
    twin = copy.deepcopy(model)
    expect_equal(outputs(twin, batch), expected, "a deep copy of the model gives another output")
    (own,) = adaptations(twin)
    assert own is not adaptation and own.model is twin, "the copy's adaptation still belongs to the original model"
    randomise(own, seed=6)
    assert differ(outputs(twin, batch), expected), "changing the copy's adaptation does not change the copy's output"
    expect_equal(outputs(model, batch), expected, "changing the copy's adaptation changes the original's output")
    own.detach()
    expect_equal(outputs(twin, batch), base_output(case, batch), "detached from a copy, it does not leave the base")
    expect_equal(outputs(model, batch), expected, "detaching from the copy changes the original")


def stacks_with_itself(case: Case) -> None:
    """Two adaptations of the technique on one model; detaching either leaves exactly the other."""
    model, first, batch = case.attached()
    alone = outputs(model, batch)
    second = case.attach(model, name="second", seed=1)
    randomise(second, seed=9)
    assert differ(outputs(model, batch), alone), "a second adaptation with random values changes nothing"
    values = second.state_dict()
    second.detach()
    expect_equal(outputs(model, batch), alone, "detaching the second adaptation does not give the first one's output")
    again = case.attach(model, name="second", seed=1)
    again.load_state_dict(values)
    first.detach()
    other = case.model()
    case.attach(other, seed=1).load_state_dict(values)
    expect_equal(
        outputs(model, batch), outputs(other, batch), "detaching the first adaptation does not leave the second alone"
    )
    again.detach()
    expect_equal(outputs(model, batch), base_output(case, batch), "with both detached the output is not the base's")


CHECKS = {
    **collect(eval_is_deterministic, any_head=True),
    **collect(save_and_load_round_trip),
    **collect(disabled_equals_base, any_head=True),
    **collect(detach_restores_the_model),
    **collect(deepcopy_is_independent, stacks_with_itself, any_head=True),
}
