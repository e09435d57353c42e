"""AdaLoRA: the conformance kit, peft with equal weights over a run of steps, and what is saved."""

import copy
from typing import Any

import pytest
import torch
from refarch_adalora.function import Triplets
from refarch_adalora.schedule import Budget

import refarch
from refarch.errors import SpecError, UsageError
from refarch.testing import Batch, TechniqueConformance, Tiny, all_tiny, outputs, randomise

peft = pytest.importorskip("peft")

# family -> refarch slots to the ends of the paths that peft wraps
TARGETS: dict[str, dict[str, str]] = {
    "bert": {"attention.query": "self.query", "attention.value": "self.value", "ffn.up": "intermediate.dense"},
    "gpt2": {"attention.output": "attn.c_proj", "ffn.up": "mlp.c_fc"},
    "llama": {"attention.query": "q_proj", "attention.value": "v_proj", "ffn.gate": "gate_proj"},
    "t5": {"attention.query": "SelfAttention.q", "attention.value": "SelfAttention.v", "ffn.up": "DenseReluDense.wi"},
}
OURS = ("left", "values", "right")
THEIRS = {"left": "lora_B", "values": "lora_E", "right": "lora_A"}


class TestAdalora(TechniqueConformance):
    technique = "adalora"


class TestAdaloraOnQueryAndValue(TechniqueConformance):
    technique = "adalora"
    families = ("bert", "gpt2", "t5")
    options = {"rank": 4, "target_rank": 1, "orthogonality": 0, "slots": ["attention.query", "attention.value"]}


class Pair:
    """A model with our AdaLoRA and one with peft's, with equal values, in float64 so that no importance ties."""

    def __init__(self, name: str, total: int, **options: Any) -> None:
        self.case: Tiny = all_tiny([name])[0]
        self.model = self.case.model().double()
        self.batch: Batch = self.case.batch(self.model, (7, 7))
        ends = "|".join(end.replace(".", r"\.") for end in TARGETS[name].values())
        names = {"rank": "init_r", "target_rank": "target_r", "alpha": "lora_alpha", "delta_t": "deltaT"}
        config = peft.AdaLoraConfig(
            target_modules=rf".*\.({ends})",
            fan_in_fan_out=name == "gpt2",
            total_step=total,
            **{names.get(key, key): value for key, value in options.items() if key != "orthogonality"},
            **({"orth_reg_weight": options["orthogonality"]} if "orthogonality" in options else {}),
        )
        self.wrapped = peft.get_peft_model(copy.deepcopy(self.model), config).eval()
        self.adaptation = refarch.attach(
            self.model, "adalora", dtype=torch.float64, slots=list(TARGETS[name]), **options
        )
        randomise(self.adaptation)
        layers = {p: m for p, m in self.wrapped.named_modules() if isinstance(m, peft.tuners.adalora.AdaLoraLayer)}
        assert len(layers) == len(self.adaptation.insertions)
        self.pairs = []
        for address, function in self.adaptation.functions():
            layer = next(m for p, m in layers.items() if p.endswith(self.adaptation.slot_map[address]))
            layer.ranknum["default"] = layer.ranknum["default"].double() - 1e-5  # peft adds that before dividing by it
            assert isinstance(function, Triplets)
            for own in OURS:
                theirs = getattr(layer, THEIRS[own])["default"]
                theirs.data = getattr(function, own).detach().view_as(theirs).clone()
                self.pairs.append((getattr(function, own), theirs))

    def backward(self) -> None:
        """Gradients of both losses. Peft's inner model adds its term; its outer one, without a task type, does not."""
        (self.case.loss(self.model, self.batch) + self.adaptation.penalty()).backward()
        self.case.loss(self.wrapped.base_model, self.batch).backward()

    def expect_equal(self, gradients: bool = False) -> None:
        for own, theirs in self.pairs:
            mine, other = (own.grad, theirs.grad) if gradients else (own.detach(), theirs.detach())
            assert mine is not None and other is not None
            torch.testing.assert_close(mine, other.view_as(mine), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TARGETS)
def test_logits_and_gradients_equal_peft(name: str) -> None:
    pair = Pair(name, 10, rank=5, target_rank=3, alpha=12, orthogonality=0.3)
    torch.testing.assert_close(outputs(pair.model, pair.batch), outputs(pair.wrapped, pair.batch), rtol=1e-5, atol=1e-5)
    pair.backward()
    pair.expect_equal(gradients=True)
    assert all(own.grad is not None and own.grad.any() for own, _ in pair.pairs)


SCHEDULES = [
    {},
    {"tinit": 2, "tfinal": 3, "delta_t": 2},
    {"tinit": 0, "tfinal": 5, "delta_t": 4, "beta1": 0.5, "beta2": 0.9, "target_rank": 1},
]


@pytest.mark.parametrize("options", SCHEDULES, ids=["defaults", "phases", "rare"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_the_same_triplets_are_kept_as_by_peft_at_each_step(name: str, options: dict[str, Any]) -> None:
    total = 12
    pair = Pair(name, total, **{"rank": 6, "target_rank": 4, **options})
    ours = torch.optim.Adam([own for own, _ in pair.pairs], lr=1e-2)
    theirs = torch.optim.Adam([other for _, other in pair.pairs], lr=1e-2)
    masks: set[tuple[bool, ...]] = set()
    for step in range(1, total + 1):
        pair.backward()
        ours.step()
        theirs.step()
        pair.adaptation.after_step(step, total)
        pair.wrapped.base_model.update_and_allocate(step)
        ours.zero_grad()
        theirs.zero_grad()
        pair.expect_equal()
        values = [(own != 0, other != 0) for own, other in pair.pairs if own.ndim == 1]
        assert all(torch.equal(own, other.flatten()) for own, other in values), f"other triplets at step {step}"
        masks.add(tuple(torch.cat([own for own, _ in values]).tolist()))
    assert len(masks) > 2
    assert sum(masks_at_end := [len(own.nonzero()) for own, _ in pair.pairs if own.ndim == 1]) == (
        pair.wrapped.peft_config["default"].target_r * len(masks_at_end)
    )
    assert len(set(masks_at_end)) > 1, "all ranks are equal: nothing was allocated"


def trained(**options: Any) -> refarch.Adaptation:
    """Through six steps, of which the last two keep the ranks."""
    case = all_tiny(["bert"])[0]
    adaptation = refarch.attach(case.model(), "adalora", rank=4, **options)
    optimizer = torch.optim.Adam(adaptation.parameters(), lr=1e-2)
    for step in range(1, 7):
        batch = case.batch(adaptation.model, seed=step)
        (case.loss(adaptation.model, batch) + adaptation.penalty()).backward()
        optimizer.step()
        adaptation.after_step(step, 6)
        optimizer.zero_grad()
    return adaptation


def test_what_is_saved_has_the_ranks_that_are_left(tmp_path: Any) -> None:
    case = all_tiny(["bert"])[0]
    adaptation = trained(target_rank=1, tfinal=2)
    batch = case.batch(adaptation.model)
    expected = outputs(adaptation.model, batch)
    adaptation.save(tmp_path)
    loaded = refarch.load(case.model(), tmp_path, trainable=True)
    ranks = [len(function.values) for _, function in loaded.functions()]
    assert sum(ranks) == len(ranks) and max(ranks) > 1 and min(ranks) == 0
    assert not any("importance" in name or "kept" in name for name in loaded.state_dict())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    torch.testing.assert_close(outputs(loaded.model, batch), expected, rtol=1e-5, atol=1e-5)
    (case.loss(loaded.model, batch) + loaded.penalty()).backward()  # what is folded can be trained further
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loaded.parameters())
    loaded.after_step(1, 2)
    loaded.save(tmp_path / "again")
    assert refarch.load(case.model(), tmp_path / "again").count(trainable=False) == loaded.count()
    loaded.merge()
    torch.testing.assert_close(outputs(loaded.model, batch), expected, rtol=1e-5, atol=1e-5)


def test_what_has_not_trained_is_saved_whole(tmp_path: Any) -> None:
    case = all_tiny(["bert"])[0]
    refarch.attach(case.model(), "adalora", rank=3).save(tmp_path)
    assert {len(f.values) for _, f in refarch.load(case.model(), tmp_path).functions()} == {3}


def test_values_that_were_zero_come_back_until_the_choice_stands() -> None:
    adaptation = trained(target_rank=1, tinit=1, delta_t=10)  # the only allocation is the last step's
    assert sum(int((f.values != 0).sum()) for _, f in adaptation.functions()) == len(adaptation.insertions)
    assert sum(int((f.values != 0).sum()) for _, f in trained(target_rank=4).functions()) == 4 * 12


@pytest.mark.parametrize("tfinal", [0, 3])
def test_a_step_that_was_skipped_is_made_up_for(tfinal: int) -> None:
    adaptation = trained(target_rank=4, tfinal=tfinal)
    (schedule,) = adaptation.schedules
    assert isinstance(schedule, Budget)
    schedule.target = 5
    adaptation.after_step(6, 6)
    assert sum(int((f.values != 0).sum()) for _, f in adaptation.functions()) == 5


def test_the_number_of_triplets_falls_by_a_cubic_law() -> None:
    adaptation = refarch.attach(all_tiny(["bert"])[0].model(), "adalora", rank=10, target_rank=2, tinit=10, tfinal=20)
    (schedule,) = adaptation.schedules
    assert isinstance(schedule, Budget)
    found = [schedule.number(step, 130) for step in (1, 10, 60, 110, 120, 130)]
    assert found == [120, 120, int(24 + 96 / 8), 24, 24, 24]


def test_without_a_target_it_is_two_thirds() -> None:
    for rank, target in ((12, 8), (3, 2), (1, 1)):
        (schedule,) = refarch.attach(all_tiny(["bert"])[0].model(), "adalora", rank=rank).schedules
        assert isinstance(schedule, Budget) and schedule.target == 12 * target


def test_what_does_not_fit_is_refused() -> None:
    case = all_tiny(["bert"])[0]
    with pytest.raises(SpecError, match="target_rank 5 exceeds rank 4"):
        refarch.attach(case.model(), "adalora", rank=4, target_rank=5)
    with pytest.raises(SpecError, match="rank 40 exceeds"):
        refarch.attach(case.model(), "adalora", rank=40)
    adaptation = refarch.attach(case.model(), "adalora", tinit=6, tfinal=4)
    with pytest.raises(SpecError, match="leave none of 10 steps"):
        adaptation.after_step(1, 10)
    with pytest.raises(UsageError, match="there are none"):
        adaptation.after_step(1, 11)
    with pytest.raises(UsageError, match="counted from 1"):
        adaptation.after_step(0, 11)
