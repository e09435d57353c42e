"""What a check works on: a technique on one tiny model; and the helpers that all checks use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from refarch.architecture import ConfiguredTechnique, TechniqueSpec
from refarch.engine import Adaptation
from refarch.engine.adaptation.attach import attach
from refarch.errors import SlotError
from refarch.plugins.discovery import Kind
from refarch.plugins.registry import default_registry
from refarch.testing.models import Batch, Tiny, outputs

C = TypeVar("C")


class NotApplicable(Exception):
    """A check has nothing to check here; the message says why."""


class Check(NamedTuple, Generic[C]):
    """One check: raises ``AssertionError`` if the conformance it stands for is not given."""

    name: str
    function: Callable[[C], None]
    summary: str
    once: bool
    """Whether it is about the plugin alone, not about one model."""
    any_head: bool = False
    """Whether a model's head makes no difference, so that one head of each family shows it."""

    def on(self, cases: Sequence[C]) -> Sequence[C]:
        """Those of the cases on which it tells something new; the first of each family where the head is all one."""
        if self.once:
            return cases[:1]
        if not self.any_head:
            return cases
        return list({case.tiny.family.name: case for case in reversed(cases)}.values())[::-1]  # type: ignore[attr-defined]


def collect(*functions: Callable[[C], None], once: bool = False, any_head: bool = False) -> dict[str, Check[C]]:
    """Checks by name, in this order; a check's summary is the first sentence of its docstring."""
    checks = {}
    for function in functions:
        summary = " ".join((function.__doc__ or function.__name__).strip().partition("\n\n")[0].split())
        checks[function.__name__] = Check(function.__name__, function, summary, once, any_head)
    return checks


@dataclass(frozen=True)
class Case:
    """A technique on a family's tiny model.

    Attributes:
        technique: an installed technique's name, or a spec.
        tiny: the model.
        options: choices for ``attach``.
        families: the families that the author wants to support; None for all that are installed.
    """

    technique: str | TechniqueSpec
    tiny: Tiny
    options: dict[str, Any] = field(default_factory=dict)
    families: tuple[str, ...] | None = None

    @property
    def label(self) -> str:
        """``bert-AutoModelForMaskedLM``."""
        return self.tiny.label

    @property
    def plugin(self) -> tuple[Kind, str] | None:
        """The installed plugin that provides the technique."""
        return ("technique", self.technique) if isinstance(self.technique, str) else None

    @functools.cached_property
    def spec(self) -> TechniqueSpec:
        """The technique's spec."""
        return default_registry().technique(self.technique) if isinstance(self.technique, str) else self.technique

    @functools.cached_property
    def configured(self) -> ConfiguredTechnique:
        """The spec with its options decided."""
        return self.spec.configure(self.options)

    @functools.cached_property
    def refusal(self) -> str:
        """Why the technique does not exist on this model: the reason that attach gives; empty if it does."""
        try:
            self.attach(self.tiny.model())
        except SlotError as error:
            return str(error)
        return ""

    def require(self) -> None:
        """Go on only where the technique's slots exist.

        Raises:
            NotApplicable: with the reason from attaching.
        """
        if self.refusal:
            raise NotApplicable(f"{self.spec.name!r} does not apply to {self.label}: {self.refusal}")

    def model(self) -> PreTrainedModel:
        """A fresh base."""
        return self.tiny.model()

    def batch(self, model: PreTrainedModel, *lengths: int, seed: int = 0) -> Batch:
        """A batch for it; two rows of seven tokens when no lengths are given."""
        return self.tiny.batch(model, lengths or (7, 7), seed)

    def attach(self, model: PreTrainedModel, **choices: Any) -> Adaptation:
        """Attach the technique with the case's options; ``choices`` win."""
        return attach(model, self.technique, family=self.tiny.family, **{**self.options, **choices})

    def attached(self) -> tuple[PreTrainedModel, Adaptation, Batch]:
        """A fresh model with the technique at random values, and a batch."""
        model = self.model()
        adaptation = self.attach(model)
        randomise(adaptation)
        return model, adaptation, self.batch(model)


@torch.no_grad()
def randomise(adaptation: Adaptation, seed: int = 5, scale: float = 0.1) -> None:
    """Add noise to all trainable parameters of an adaptation, so that nothing is zero or the identity any more."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in adaptation.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.to(parameter.dtype), alpha=scale)


def train(case: Case, model: PreTrainedModel, batch: Batch, steps: int, lr: float = 1e-2) -> tuple[float, float]:
    """Train whatever requires gradients on one batch with Adam; returns the first and the last loss in evaluation."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    first = evaluate(case, model, batch)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            case.tiny.loss(model, batch).backward()
            optimizer.step()
    model.eval()
    return first, evaluate(case, model, batch)


@torch.no_grad()
def evaluate(case: Case, model: PreTrainedModel, batch: Batch) -> float:
    """The loss in evaluation mode."""
    model.eval()
    return float(case.tiny.loss(model, batch))


def expect_equal(actual: Tensor, expected: Tensor, what: str, tolerance: float = 0.0) -> None:
    """Fail unless two tensors agree, bit for bit when no tolerance is given.

    Args:
        actual: what came out.
        expected: what should have.
        what: the message: what is wrong if they differ, and where to look.
        tolerance: the largest difference allowed, for values up to one; in proportion for larger ones.
    """
    __tracebackhide__ = True
    assert actual.shape == expected.shape, f"{what} [shape {tuple(actual.shape)}, expected {tuple(expected.shape)}]"
    if torch.equal(actual, expected):
        return
    assert bool(torch.isfinite(actual).all()) or not bool(torch.isfinite(expected).all()), f"{what} [not finite]"
    gap = (actual.double() - expected.double()).abs()
    wrong = gap > tolerance * expected.double().abs().clamp(min=1.0)
    assert not bool(wrong.any()), (
        f"{what} [{int(wrong.sum())} of {wrong.numel()} values differ, by up to {float(gap.max()):.2e};"
        f" allowed: {tolerance:g}]"
    )


def differ(first: Tensor, second: Tensor) -> bool:
    """Whether two outputs differ by more than rounding."""
    return first.shape != second.shape or bool((first - second).abs().max() > 1e-5)


class Snapshot:
    """What a model was: to tell what has changed about it since.

    Args:
        model: looked at when this is made; its values are copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self.values = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.facts = _facts(model)

    def differences(self, model: nn.Module, values: bool = True) -> list[str]:
        """In words, what is no longer as it was; empty if nothing is.

        Args:
            model: the model, later.
            values: also compare the values of parameters and buffers, bit for bit.
        """
        state, facts = model.state_dict(), _facts(model)
        found = [f"state_dict has gained {name}" for name in state.keys() - self.values.keys()]
        found += [f"state_dict has lost {name}" for name in self.values.keys() - state.keys()]
        if values:
            for name in self.values.keys() & state.keys():
                if not torch.equal(state[name], self.values[name]):
                    found.append(f"the values of {name} have changed")
        for place in dict.fromkeys([*self.facts, *facts]):
            before, after = self.facts.get(place), facts.get(place)
            if before != after:
                found.append(f"{place}: {_change(before, after)}")
        return found


def _facts(model: nn.Module) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for path, module in model.named_modules():
        label = path or type(model).__name__
        facts[f"class of {label}"] = type(module)
        facts[f"instance attributes of {label}"] = frozenset(module.__dict__)
        for name, value in module.__dict__.items():
            if "hooks" in name and hasattr(value, "__len__"):
                facts[f"number of {name} of {label}"] = len(value)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        facts[f"requires_grad of {name}"] = parameter.requires_grad
        facts[f"identity of the parameter {name}"] = id(parameter)
    config = getattr(model, "config", None)
    if config is not None:
        for name, value in config.to_dict().items():
            if name != "problem_type":  # transformers sets it with the first labels
                facts[f"{name} of the config"] = repr(value)
        facts["attention implementation"] = config._attn_implementation
    return facts


def _change(before: Any, after: Any) -> str:
    """From one fact to another in few words."""
    if isinstance(before, frozenset) and isinstance(after, frozenset):
        sides = {"gained": after - before, "lost": before - after}
        return ", ".join(f"{verb} {', '.join(sorted(names))}" for verb, names in sides.items() if names)
    return f"was {before!r:.100}, is {after!r:.100}"


def unchanged(snapshot: Snapshot, model: nn.Module, what: str, values: bool = True) -> None:
    """Fail, with the first differences, unless the model is as it was."""
    __tracebackhide__ = True
    found = snapshot.differences(model, values)
    assert not found, f"{what}: " + "; ".join(found[:5]) + (f" (and {len(found) - 5} more)" if len(found) > 5 else "")


def base_output(case: Case, batch: Batch) -> Tensor:
    """What the untouched base gives."""
    return outputs(case.model(), batch)
