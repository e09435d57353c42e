"""What holds before any training: the spec, the slots, the initial values, the sizes."""

from __future__ import annotations

import random
import tempfile
from typing import Any

import numpy as np
import torch

from refarch.architecture import SLOTS, parse_slot
from refarch.engine import Adaptation, Resolver
from refarch.engine.adaptation.plan import read_shape
from refarch.errors import SlotError, SpecError
from refarch.plugins.registry import resolve
from refarch.testing.case import Case, NotApplicable, Snapshot, collect, expect_equal, unchanged
from refarch.testing.checks.plugin import light_import, survives_json
from refarch.testing.models import all_tiny, outputs

MISSPELT = "attention.qeury"


def spec_is_plain_data(case: Case) -> None:
    """The spec survives JSON, and every preset configures."""
    spec = case.spec
    survives_json(spec, spec.name)
    for preset in spec.presets:
        spec.configure({"preset": preset})
    assert sum(option.size for option in spec.options) <= 1, (
        f"{spec.name!r}: several options are marked size=True; one option is the technique's size"
    )


def applies_somewhere(case: Case) -> None:
    """The technique can be attached to at least one tiny model."""
    reasons = []
    for tiny in all_tiny(case.families):
        reason = Case(case.technique, tiny, case.options).refusal
        if not reason:
            return
        reasons.append(f"{tiny.label}: {reason}")
    raise AssertionError(
        f"{case.spec.name!r} applies to no installed family, so nothing about it was tested:\n" + "\n".join(reasons)
    )


def identity_at_start(case: Case) -> None:
    """A freshly attached technique leaves the output as it was."""
    vague = [module.name for module in case.configured.technique.modules if not module.identity_at_start]
    if vague:
        raise NotApplicable(f"the spec says identity_at_start=False for {', '.join(vague)}")
    model = case.model()
    batch = case.batch(model)
    before = outputs(model, batch)
    case.attach(model)
    expect_equal(
        outputs(model, batch),
        before,
        f"{case.spec.name!r} changes the output before any training. Initialise its last factor with zeros (a rescaling"
        " with ones), or declare identity_at_start=False",
        1e-6,
    )


def seed_determines_values(case: Case) -> None:
    """One seed gives one set of values, whatever the global generators are at; attaching leaves these untouched."""
    first = _values(case, 3, noise=0)
    for name, again in _values(case, 3, noise=1).items():
        expect_equal(
            again,
            first[name],
            f"{name}: attached twice with one seed, it has different values. Draw random numbers with torch's default"
            " generator, in the constructor; not with numpy, random or a generator of your own",
        )


def seeds_differ(case: Case) -> None:
    """Another seed gives other values, unless nothing is random."""
    first, other = _values(case, 3, noise=0), _values(case, 4, noise=0)
    if any(not torch.equal(first[name], other[name]) for name in first):
        return
    for insertion in case.attach(case.model()).insertions:
        ends = []
        for seed in (3, 4):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                _rebuild(case, insertion)
                ends.append(torch.get_rng_state())
        assert not torch.equal(*ends), (
            f"{insertion.spec.function} sets the seed of torch's generator itself, so every adaptation starts with the"
            " same values; leave seeding to refarch.attach(seed=...)"
        )


def predicted_count(case: Case) -> None:
    """On a model without storage, the technique has the same parameters, shapes and checkpoint."""
    real, meta = case.attach(case.model()), case.attach(case.tiny.meta())
    assert meta.count() == real.count() and meta.count(trainable=False) == real.count(trainable=False), (
        f"on the meta device {case.spec.name!r} has {meta.count():,} trainable parameters, on a real model"
        f" {real.count():,}; a function's shapes may depend on its SlotShape and options only"
    )
    shapes, wanted = _shapes(meta), _shapes(real)
    assert shapes == wanted, f"checkpoint shapes differ between the meta device and a real model: {shapes} {wanted}"
    assert meta.slot_map == real.slot_map, "the slot map differs between the meta device and a real model"
    with tempfile.TemporaryDirectory() as folder:
        written = sum(file.stat().st_size for file in real.save(folder).iterdir())
    for place, predicted in (("a real model", real.saved_bytes()), ("the meta device", meta.saved_bytes())):
        assert predicted == written, (
            f"on {place}, {case.spec.name!r} is predicted to take {predicted:,} bytes when it is saved, but {written:,}"
            " were written; do the shapes after fold() depend on values that are not there yet?"
        )


def unsupported_slot_refused(case: Case) -> None:
    """A slot that is not there is refused by a clean error, and the model stays untouched."""
    model = case.model()
    resolver = Resolver(model, case.tiny.family)
    snapshot = Snapshot(model)
    modules = case.configured.technique.modules
    own = [text.removesuffix("?") for text in modules[0].workspace]
    kinds = {parse_slot(text).slot.kind for text in own}
    there = resolver.available()
    absent = [name for name, slot in SLOTS.items() if slot.per == "layer" and name not in there and slot.kind in kinds]
    present = [text for text in own if text not in absent]
    wrong = [[MISSPELT], *([[absent[0]], [*present, absent[0]]] if absent else [])]
    for slots in wrong:
        try:
            case.attach(model, slots=slots if len(modules) == 1 else {modules[0].name: slots})
        except (SlotError, SpecError) as error:
            assert slots[-1] in str(error), f"the error for slots {slots} does not name {slots[-1]!r}: {error}"
        else:
            raise AssertionError(
                f"attaching at {slots} worked, though {type(model).__name__} has no {slots[-1]!r}; it was left out"
                " silently"
            )
        unchanged(snapshot, model, f"after a refused attach at {slots} the model is not as it was")


def _values(case: Case, seed: int, noise: int) -> dict[str, torch.Tensor]:
    """The initial values for a seed, with the global generators at ``noise``; checks that they stay there."""
    with torch.random.fork_rng(devices=[]):
        python, numpy = random.getstate(), np.random.get_state()
        try:
            torch.manual_seed(noise)
            random.seed(noise)
            np.random.seed(noise)
            before = _generators()
            adaptation = case.attach(case.model(), seed=seed)
            assert _generators() == before, (
                f"attaching {case.spec.name!r} moves a global random generator (torch's, numpy's or Python's)"
            )
            return {name: tensor.clone() for name, tensor in adaptation.state_dict().items()}
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _generators() -> tuple[Any, ...]:
    state: Any = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), state[1].tolist(), state[2]


def _rebuild(case: Case, insertion: Any) -> None:
    spec = insertion.spec
    resolve(spec.function)(read_shape(spec, insertion.site), **case.configured.arguments(spec))


def _shapes(adaptation: Adaptation) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in adaptation.state_dict().items()}


ONCE = collect(light_import, spec_is_plain_data, applies_somewhere, once=True)
CHECKS = {
    **collect(identity_at_start),
    **collect(seed_determines_values, seeds_differ, any_head=True),
    **collect(predicted_count),
    **collect(unsupported_slot_refused, any_head=True),
}
