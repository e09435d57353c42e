"""The kit must catch errors: techniques that are wrong in one way each fail the check that is about it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from refarch.architecture import ModuleSpec, Option, TechniqueSpec
from refarch.engine import Function, LowRank, Schedule, SlotShape
from refarch.testing import CHECKS, NotApplicable
from refarch.testing.case import Case
from refarch.testing.models import all_tiny
from refarch.testing.report import perform


class Right(LowRank):
    """Nothing wrong with it."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__(shape.d_in, shape.d_out, 2)
        self.scale = 2.0


class NoIdentity(Right):
    """Starts with a random contribution."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__(shape)
        nn.init.normal_(self.up)


class Plain(Function):
    """The same map without the engine's short cuts: for what those would not run."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(2, shape.d_in) * 0.1)
        self.up = nn.Parameter(torch.zeros(shape.d_out, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.down.T @ self.up.T

    def delta(self) -> Tensor:
        return self.up @ self.down


class WritesBase(Plain):
    """Changes the base weight while running."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__(shape)
        cells = dict(zip(shape.weight.__code__.co_freevars, shape.weight.__closure__ or (), strict=True))
        self.base = [cells["site"].cell_contents.end.module.weight]

    def forward(self, x: Tensor) -> Tensor:
        self.base[0].data.add_(1e-3)
        return super().forward(x)


class ForgetsGradient(Plain):
    """Uses a parameter without its gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.down.detach().T @ self.up.T


class Unused(Plain):
    """Has a parameter that nothing reads."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__(shape)
        self.extra = nn.Parameter(torch.zeros(3))


class WrongDelta(Plain):
    """delta() forgets a factor."""

    def delta(self) -> Tensor:
        return 0.5 * self.up @ self.down


class TransposedDelta(Plain):
    """delta() has the wrong orientation."""

    def delta(self) -> Tensor:
        return (self.up @ self.down).T


class ScaleTwice(Plain):
    """Applies in forward() the scale that the engine applies too."""

    scale = 3.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class Unseeded(Plain):
    """Draws numbers from Python's generator."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__(shape)
        with torch.no_grad():
            self.down.mul_(random.Random().random())


class OwnSeed(Plain):
    """Sets the seed itself."""

    def __init__(self, shape: SlotShape) -> None:
        torch.manual_seed(0)
        super().__init__(shape)


class NoisyInEvaluation(Plain):
    """Drops units in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.nn.functional.dropout(x, 0.5, training=True))


class MovesGlobalGenerator(Plain):
    """Draws from Python's global generator."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__(shape)
        random.random()


class HiddenState(Plain):
    """Keeps a value from training that no checkpoint holds."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__(shape)
        self.seen = 1.0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen = 0.5
        return super().forward(x) * self.seen


class MixesPositions(Plain):
    """Looks at padding."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + x.mean(dim=1, keepdim=True))


class NotTraining(Plain):
    """Has a parameter that does not train, and does not say so."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__(shape)
        self.down.requires_grad_(False)


class Overflows(Plain):
    """Computes beyond the range of numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1e30 * 1e30


class NoGradientWhenLast(Plain):
    """In the last layer its gradient is zero, though the output depends on it."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__(shape)
        self.last = shape.layer == shape.layers - 1

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y.detach() + 0 * y if self.last else y


class OnlyFirstLayers(Plain):
    """Its shape depends on what the base's weights are."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__(shape)
        rank = 3 if shape.weight().any() else 2
        self.down = nn.Parameter(torch.randn(rank, shape.d_in) * 0.1)
        self.up = nn.Parameter(torch.zeros(shape.d_out, rank))


def spec(function: type[Function], **changes: Any) -> TechniqueSpec:
    """A throwaway technique around one function."""
    fields = {
        "name": "wrong",
        "workspace": ("attention.query", "attention.value"),
        "insertion": "parallel",
        "integration": "scaled addition",
        "input_type": "hidden",
        "adapted": "reparameterisation",
        "intra": "dense",
        "inter": "fixed",
        "form": "linear",
        "function": f"{__name__}:{function.__name__}",
        **changes,
    }
    return TechniqueSpec(name="wrong", summary=function.__doc__ or "?", modules=(ModuleSpec.parse(fields),))


TINY = {tiny.label: tiny for tiny in all_tiny(["bert", "gpt2"])}


def failing(technique: TechniqueSpec, model: str) -> dict[str, str]:
    """The checks that fail on one model, with their messages."""
    case, found = Case(technique, TINY[model]), {}
    for check in CHECKS.values():
        try:
            perform(check, case)
        except NotApplicable:
            continue
        except Exception as error:
            found[check.name] = str(error)
    return found


WRONG = [
    (NoIdentity, "identity_at_start", "before any training"),
    (WritesBase, "base_stays_bit_identical", "writes to the base weight"),
    (ForgetsGradient, "gradients_reach_all_parameters", "down gets no gradient"),
    (Unused, "gradients_reach_all_parameters", "extra gets no gradient"),
    (WrongDelta, "delta_matches_forward", "is not x @ delta"),
    (WrongDelta, "merge_equals_attached", "merged, 'wrong' computes something else"),
    (ScaleTwice, "delta_matches_forward", "the scale, which the engine applies"),
    (ScaleTwice, "merge_equals_attached", "'scale' the factor of a scaled addition"),
    (Unseeded, "seed_determines_values", "torch's default generator"),
    (OwnSeed, "seeds_differ", "sets the seed of torch's generator itself"),
    (MovesGlobalGenerator, "seed_determines_values", "moves a global random generator"),
    (NoisyInEvaluation, "eval_is_deterministic", "two results for one input"),
    (HiddenState, "save_and_load_round_trip", "another output after save and load"),
    (MixesPositions, "padding_changes_nothing", "with padding in the batch"),
    (NotTraining, "only_declared_parameters_train", "does not list it in 'frozen'"),
    (OnlyFirstLayers, "predicted_count", "on the meta device"),
    (Overflows, "gradients_reach_all_parameters", "not finite"),
]


@pytest.mark.parametrize(("function", "check", "message"), WRONG, ids=[f"{w[0].__name__}-{w[1]}" for w in WRONG])
def test_the_kit_catches(function: type[Function], check: str, message: str) -> None:
    found = failing(spec(function), "bert-AutoModelForMaskedLM")
    assert check in found, f"not caught; what failed: {found}"
    assert message in found[check]


@pytest.mark.parametrize(("function", "check"), [(MixesPositions, "cached_generation_equals_uncached")])
def test_the_kit_catches_in_generation(function: type[Function], check: str) -> None:
    assert check in failing(spec(function), "gpt2-AutoModelForCausalLM")


def test_a_delta_of_the_wrong_orientation_is_caught() -> None:
    found = failing(spec(TransposedDelta, workspace=("ffn.up",)), "bert-AutoModelForMaskedLM")
    assert "needs (48, 32)" in found["delta_matches_forward"]


def test_a_missing_delta_is_caught() -> None:
    class_without = spec(MissingDelta)
    assert "defines no delta()" in failing(class_without, "bert-AutoModelForMaskedLM")["delta_matches_forward"]


class MissingDelta(Plain):
    """Says that it is linear and gives no matrix."""

    delta = Function.delta


def test_a_technique_that_applies_nowhere_is_caught() -> None:
    nowhere = spec(Right, workspace=("cross_attention.query",))
    case = Case(nowhere, TINY["bert-AutoModelForMaskedLM"], families=("bert", "gpt2"))
    with pytest.raises(AssertionError, match="applies to no installed family"):
        CHECKS["applies_somewhere"].function(case)


def test_two_sizes_are_caught() -> None:
    options = tuple(Option(name=name, type="integer", default=1, size=True, help="?") for name in ("rank", "width"))
    technique = spec(Right).model_copy(update={"options": options})
    with pytest.raises(AssertionError, match="size"):
        CHECKS["spec_is_plain_data"].function(Case(technique, TINY["bert-AutoModelForMaskedLM"]))


@pytest.mark.parametrize("function", [Right, Plain])
@pytest.mark.parametrize("model", sorted(TINY))
def test_nothing_wrong_passes(function: type[Function], model: str) -> None:
    assert failing(spec(function), model) == {}


UNREAD = [
    ("bert-AutoModelForSequenceClassification", "last"),
    ("gpt2-AutoModelForSequenceClassification", "first"),
    ("gpt2-AutoModelForCausalLM", "last"),
]
FEW = {"workspace": ("layer",), "insertion": "sequential", "adapted": "addition", "form": "mlp"}


@pytest.mark.parametrize("end", ["first", "last"])
@pytest.mark.parametrize("model", sorted(TINY))
def test_tokens_that_the_loss_does_not_read_excuse_a_gradient_and_nothing_else(model: str, end: str) -> None:
    """A classifier reads one token after the last layer, and of a language model the last token predicts nothing."""
    few, check = {**FEW, "positions": {end: 1}}, CHECKS["gradients_reach_all_parameters"]
    perform(check, Case(spec(Plain, **few), TINY[model]))
    if (model, end) not in UNREAD:
        with pytest.raises(AssertionError, match="is zero everywhere"):
            perform(check, Case(spec(NoGradientWhenLast, **few), TINY[model]))


class ForgetfulSchedule(Schedule):
    """Remembers steps itself, so that a resumed run does something else."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        super().__init__(functions)
        self.seen = 0

    def after_step(self, step: int, total: int) -> None:
        self.seen += 1
        for parameter in (p for function in self.functions.values() for p in function.parameters()):
            parameter.mul_(1 - 0.1 * self.seen)


class ByStep(Schedule):
    """Depends on the step alone."""

    def after_step(self, step: int, total: int) -> None:
        for parameter in (p for function in self.functions.values() for p in function.parameters()):
            parameter.mul_(1 - 0.1 * step / total)


def test_a_schedule_with_a_memory_of_its_own_is_caught() -> None:
    check = CHECKS["schedule_resumes"]
    for schedule, wrong in ((ForgetfulSchedule, True), (ByStep, False)):
        case = Case(spec(Plain, schedule=f"{__name__}:{schedule.__name__}"), TINY["bert-AutoModelForMaskedLM"])
        if wrong:
            with pytest.raises(AssertionError, match="What a schedule remembers must be buffers"):
                perform(check, case)
        else:
            perform(check, case)


class ChargesTwo(Plain):
    """Its term is no number."""

    def penalty(self) -> Tensor | None:
        return self.up.sum(dim=0)


class Charges(Plain):
    """A term that is right."""

    def penalty(self) -> Tensor | None:
        return self.down.square().sum()


def test_a_penalty_that_is_no_number_is_caught() -> None:
    check, tiny = CHECKS["penalty_trains_its_own_parameters"], TINY["bert-AutoModelForMaskedLM"]
    with pytest.raises(AssertionError, match="no finite number"):
        perform(check, Case(spec(ChargesTwo), tiny))
    perform(check, Case(spec(Charges), tiny))
    with pytest.raises(NotApplicable, match="adds to the loss"):
        perform(check, Case(spec(Plain), tiny))
