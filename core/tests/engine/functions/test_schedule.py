"""Terms that functions add to the loss, and schedules between steps: in a user's own loop and in a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import engine_functions as ef
import engine_models as em
import pytest
import torch
from torch import Tensor, nn
from transformers import TrainingArguments

import refarch
from refarch import Function, Schedule, SlotShape
from refarch.errors import CompositionError, PluginError, SpecError, UsageError
from refarch.pipeline.trainer import AdaptationTrainer

BERT = [{"input_ids": [5 + i, 6, 7, 8 + i], "labels": i % 2} for i in range(8)]
GPT2 = [{"input_ids": [5 + i, 6, 7, 8 + i], "labels": [5 + i, 6, 7, 8 + i]} for i in range(8)]


class Charged(ef.Line):
    """Pays for the size of its matrix, and counts in a buffer."""

    def __init__(self, shape: SlotShape, weight: float = 3.0) -> None:
        super().__init__(shape)
        self.weight = weight
        self.register_buffer("steps", torch.zeros(()))

    def penalty(self) -> Tensor | None:
        return self.weight * self.matrix.square().sum() if self.weight else None


class Counting(Schedule):
    """Notes what it was called with."""

    calls: list[tuple[int, int, bool, bool]] = []

    def __init__(self, functions: Mapping[str, Function], weight: float = 3.0) -> None:
        super().__init__(functions)
        if weight < 0:
            raise ValueError("the weight is negative")

    def after_step(self, step: int, total: int) -> None:
        functions = list(self.functions.values())
        gradients = all(p.grad is not None for function in functions for p in function.parameters())
        self.calls.append((step, total, gradients, torch.is_grad_enabled()))
        for function in functions:
            function.steps += 1


def charged(schedule: str = "Counting", **fields: Any) -> refarch.TechniqueSpec:
    path = f"{__name__}:{schedule}"
    part = em.module("Line", "scaled addition", ("attention.query", "attention.value"), schedule=path, **fields)
    return em.technique(part.model_copy(update={"function": f"{__name__}:Charged"}))


def trainer(model: Any, folder: Any, rows: list[Any], **arguments: Any) -> AdaptationTrainer:
    values = {"learning_rate": 0.1, "save_strategy": "no", "max_grad_norm": 1e9, "optim": "sgd", "logging_steps": 1}
    settings = TrainingArguments(output_dir=str(folder), report_to=[], use_cpu=True, **{**values, **arguments})
    return AdaptationTrainer(
        data_seed=0, grouped=False, model=model, args=settings, train_dataset=rows, eval_dataset=rows
    )


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Counting.calls = []


def test_penalties_are_averaged_in_a_module_and_summed_over_modules_and_adaptations() -> None:
    model = em.tiny("bert")
    one = charged().modules[0]
    second = one.model_copy(update={"name": "other", "workspace": ("ffn.up",), "arguments": {"weight": 0.5}})
    adaptation = refarch.attach(model, em.technique(one, second))
    sizes = {address: f.matrix.square().sum() for address, f in adaptation.functions()}
    first = [size for address, size in sizes.items() if address.startswith("part.")]
    rest = [size for address, size in sizes.items() if address.startswith("other.")]
    assert len(first) == 4 and len(rest) == 2
    penalty = adaptation.penalty()
    torch.testing.assert_close(penalty, 3 * sum(first) / 4 + 0.5 * sum(rest) / 2)
    penalty.backward()
    for address, function in adaptation.functions():
        factor = 3 / 4 if address.startswith("part.") else 0.5 / 2
        torch.testing.assert_close(function.matrix.grad, 2 * factor * function.matrix.detach())


def test_without_a_term_the_penalty_is_zero() -> None:
    model = em.tiny("bert")
    for adaptation in (refarch.attach(model, "lora"), refarch.attach(model, charged(arguments={"weight": 0}))):
        assert adaptation.penalty() == 0 and not adaptation.penalty().requires_grad


def test_what_does_not_train_pays_nothing_and_is_left_alone() -> None:
    model = em.tiny("bert")
    frozen, off = refarch.attach(model, charged(), trainable=False), refarch.attach(model, charged(), name="off")
    for adaptation in (frozen, off):
        with off.disabled():
            assert adaptation.penalty() == 0
            adaptation.after_step(1, 3)
    assert not Counting.calls
    off.merge()
    assert off.penalty() == 0
    off.after_step(1, 3)
    assert not Counting.calls


@pytest.mark.parametrize("step", [0, 4, -1])
def test_steps_are_counted_from_one_to_the_total(step: int) -> None:
    adaptation = refarch.attach(em.tiny("bert"), charged())
    with pytest.raises(UsageError, match="counted from 1"):
        adaptation.after_step(step, 3)


def test_the_trainer_calls_schedules_after_each_optimizer_step_with_its_gradients(tmp_path: Any) -> None:
    model = em.tiny("bert")
    adaptation = refarch.attach(model, charged())
    trainer(model, tmp_path, BERT, per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=3).train()
    assert Counting.calls == [(1, 3, True, False), (2, 3, True, False), (3, 3, True, False)]
    assert {float(function.steps) for _, function in adaptation.functions()} == {3.0}


@pytest.mark.parametrize(("name", "rows"), [("bert", BERT), ("gpt2", GPT2)])
def test_the_trainer_adds_the_penalty_once_to_each_step_however_it_is_split(
    name: str, rows: list[Any], tmp_path: Any
) -> None:
    """BERT's loss is a mean over a micro-batch; GPT-2's is told the number of items in the whole step."""
    found = []
    for batch_size, accumulated in ((8, 1), (2, 4)):
        model = em.tiny(name, "AutoModelForSequenceClassification" if name == "bert" else "AutoModelForCausalLM")
        for dropout in (module for module in model.modules() if isinstance(module, nn.Dropout)):
            dropout.p = 0.0
        model.config.attention_probs_dropout_prob = 0.0
        adaptation = refarch.attach(model, charged())
        before = {key: value.clone() for key, value in adaptation.state_dict().items()}
        term = float(adaptation.penalty())
        own = trainer(
            model,
            tmp_path / str(accumulated),
            rows,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulated,
            max_steps=1,
            lr_scheduler_type="constant",
        )
        own.check_loss(rows)
        assert own.model_accepts_loss_kwargs == (name == "gpt2")
        plain = own.evaluate()["eval_loss"]
        own.train()
        moved = {key: value - before[key] for key, value in adaptation.state_dict().items() if "steps" not in key}
        logged = next(line["loss"] for line in own.state.log_history if "loss" in line)
        assert logged == pytest.approx(plain + term, rel=1e-4), "evaluation leaves the term out, training adds it once"
        found.append(moved)
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-4, atol=1e-6)


def test_a_step_that_was_skipped_is_no_step(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = em.tiny("bert")
    refarch.attach(model, charged())
    own = trainer(model, tmp_path, BERT, max_steps=2)
    monkeypatch.setattr(type(own.accelerator), "optimizer_step_was_skipped", property(lambda self: True))
    own.train()
    assert not Counting.calls


def test_a_copy_of_the_model_has_a_schedule_of_its_own() -> None:
    import copy

    model = em.tiny("bert")
    adaptation = refarch.attach(model, charged())
    (twin,) = refarch.adaptations(copy.deepcopy(model))
    twin.after_step(1, 1)
    assert {float(f.steps) for _, f in twin.functions()} == {1.0}
    assert {float(f.steps) for _, f in adaptation.functions()} == {0.0}


class Nothing:
    """No schedule."""


class Unfinished(Schedule):
    """Defines nothing."""


def test_a_schedule_that_is_none_or_cannot_be_built_is_refused_and_the_model_untouched() -> None:
    model = em.tiny("bert")
    before = em.snapshot(model)
    with pytest.raises(PluginError, match=r"is not a subclass of refarch\.Schedule"):
        refarch.attach(model, charged("Nothing"))
    with pytest.raises(PluginError, match="cannot be built"):
        refarch.attach(model, charged(arguments={"weigth": 1}))
    with pytest.raises(SpecError, match="its schedule: the weight is negative"):
        refarch.attach(model, charged(arguments={"weight": -1}))
    em.assert_restored(before, model)
    with pytest.raises(NotImplementedError, match="Unfinished defines no after_step"):
        refarch.attach(model, charged("Unfinished", arguments={})).after_step(1, 1)


def test_a_schedule_survives_json() -> None:
    spec = charged()
    assert refarch.TechniqueSpec.from_json(spec.to_json()) == spec
    assert spec.modules[0].schedule == f"{__name__}:Counting"


class Ragged(ef.Line):
    """Folding keeps the rows that are not zero; the others are gone."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__(shape)
        self.out = shape.d_out
        self.register_buffer("rows", torch.arange(shape.d_out, dtype=torch.float32))

    def delta(self) -> Tensor:
        whole = self.matrix.new_zeros(self.out, self.matrix.shape[1])
        return whole.index_copy(0, self.rows.long(), self.matrix)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.delta().t()

    def fold(self) -> None:
        self._take(self.matrix.detach().any(dim=1).nonzero().flatten())

    def resize(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._take(torch.arange(min([len(self.matrix), *shapes["matrix"][:1]])))

    def _take(self, chosen: Tensor) -> None:
        self.matrix, self.rows = nn.Parameter(self.matrix.detach()[chosen]), self.rows[chosen]


def test_shapes_that_folding_decides_by_values_are_loaded(tmp_path: Any) -> None:
    part = em.module("Line", "scaled addition", "attention.query", train_only=("gone",))
    spec = em.technique(part.model_copy(update={"function": f"{__name__}:Ragged"}))
    model = em.tiny("bert")
    adaptation = refarch.attach(model, spec)
    with torch.no_grad():
        for rows, (_, function) in enumerate(adaptation.functions(), start=3):
            function.matrix[rows:] = 0
    values = em.batch("bert")
    expected = em.logits(model, values)
    adaptation.save(tmp_path)
    other = em.tiny("bert")
    loaded = refarch.load(other, tmp_path, technique=spec)
    assert [len(function.matrix) for _, function in loaded.functions()] == [3, 4]
    torch.testing.assert_close(em.logits(other, values), expected)
    loaded.detach()
    narrow = part.model_copy(update={"function": "engine_functions:Line"})  # which takes no shapes
    with pytest.raises((refarch.RefarchError, CompositionError), match="shapes do not match"):
        refarch.load(other, tmp_path, technique=em.technique(narrow).configure({}))
