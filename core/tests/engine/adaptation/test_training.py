"""Learning rates of single parameters: in the spec, in a user's own loop, and in the platform's trainer."""

from typing import Any

import engine_models as em
import pytest
import torch
from transformers import TrainingArguments

import refarch
from refarch.architecture import Option
from refarch.errors import PluginError, SpecError
from refarch.pipeline.trainer import AdaptationTrainer

ROWS = [{"input_ids": [5, 6, 7, 8], "labels": 0}, {"input_ids": [8, 7, 6, 5], "labels": 1}]


def narrow(scale: Any = 4.0, **fields: Any) -> refarch.TechniqueSpec:
    part = em.module(
        "Narrow",
        "scaled addition",
        "attention.query",
        arguments={"rank": 2},
        learning_rate_scale={"up": scale},
        **fields,
    )
    return em.technique(part, options=(Option(name="ratio", type="number", default=8.0, help="of the rates"),))


def trainer(model: Any, folder: Any, **arguments: Any) -> AdaptationTrainer:
    settings = TrainingArguments(
        output_dir=str(folder), learning_rate=0.25, report_to=[], use_cpu=True, weight_decay=0.1, **arguments
    )
    return AdaptationTrainer(data_seed=0, grouped=False, model=model, args=settings, train_dataset=ROWS)


def rates(groups: list[dict[str, Any]], adaptation: refarch.Adaptation) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in adaptation.named_parameters()}
    return {names[id(parameter)].rpartition(".")[2]: group["lr"] for group in groups for parameter in group["params"]}


@pytest.mark.parametrize(
    ("scale", "options", "wanted"), [(4.0, {}, 1.0), ("$ratio", {}, 2.0), ("$ratio", {"ratio": 2}, 0.5)]
)
def test_groups_for_a_loop_of_ones_own(scale: Any, options: dict[str, Any], wanted: float) -> None:
    adaptation = refarch.attach(em.tiny("bert"), narrow(scale), **options)
    groups = adaptation.parameter_groups(0.25)
    assert rates(groups, adaptation) == {"down": 0.25, "up": wanted}
    members = [parameter for group in groups for parameter in group["params"]]
    assert len(members) == len({id(p) for p in members}) == len(list(adaptation.parameters()))
    torch.optim.AdamW(groups)


def test_parameters_that_do_not_train_are_in_no_group() -> None:
    adaptation = refarch.attach(em.tiny("bert"), narrow(frozen=("down",)))
    assert rates(adaptation.parameter_groups(0.25), adaptation) == {"up": 1.0}


def test_the_trainer_uses_them_and_keeps_weight_decay_as_it_is(tmp_path: Any) -> None:
    model = em.tiny("bert")
    adaptation = refarch.attach(model, narrow(), train_head=True)
    own = trainer(model, tmp_path)
    optimizer = own.create_optimizer()
    assert own.create_optimizer() is optimizer  # and the rates are scaled once
    found = rates(optimizer.param_groups, adaptation)
    assert found == {"down": 0.25, "up": 1.0, "weight": 0.25, "bias": 0.25}
    decay = {group["lr"]: group["weight_decay"] for group in optimizer.param_groups if group["params"]}
    assert decay[1.0] == 0.1
    trained = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_without_a_scale_the_trainers_groups_are_transformers_own(tmp_path: Any) -> None:
    model = em.tiny("bert")
    refarch.attach(model, "lora")
    own = trainer(model, tmp_path)
    groups = own.create_optimizer().param_groups
    assert [(len(group["params"]), group["lr"], group["weight_decay"]) for group in groups] == [
        (8, 0.25, 0.1),
        (0, 0.25, 0.0),
    ]


def test_a_step_moves_the_scaled_parameter_by_the_multiple(tmp_path: Any) -> None:
    """Under the schedule too: Adam's first step is as long as the rate, whatever the gradient."""
    model = em.tiny("bert")
    adaptation = refarch.attach(model, narrow())
    before = {name: parameter.detach().clone() for name, parameter in adaptation.named_parameters()}
    own = trainer(
        model, tmp_path, max_steps=1, per_device_train_batch_size=2, lr_scheduler_type="constant", save_strategy="no"
    )
    own.args.weight_decay = 0.0
    own.train()
    for name, parameter in adaptation.named_parameters():
        step = (parameter.detach() - before[name]).abs()
        moved = step[step > 0.01]
        assert len(moved) > 10
        assert moved.median().item() == pytest.approx(1.0 if name.endswith("up") else 0.25, rel=1e-2)


def test_a_name_that_the_function_does_not_have_is_refused() -> None:
    part = em.module("Narrow", "scaled addition", "attention.query", learning_rate_scale={"upp": 2.0})
    with pytest.raises(PluginError, match="scales the learning rate of 'upp'"):
        refarch.attach(em.tiny("bert"), em.technique(part))


@pytest.mark.parametrize("scale", [0, -1, "ratio", "$nothing"])
def test_impossible_scales_are_refused(scale: Any) -> None:
    fields = em.module("Narrow", "scaled addition", "attention.query").model_dump()
    with pytest.raises((SpecError, ValueError), match=r"learning_rate_scale|no option"):
        em.technique(refarch.ModuleSpec.parse({**fields, "learning_rate_scale": {"up": scale}}))


def test_a_selection_has_none() -> None:
    fields = em.module(None, "selection", "attention.query").model_dump()
    with pytest.raises(SpecError, match="selection trains at the learning rate"):
        refarch.ModuleSpec.parse({**fields, "learning_rate_scale": {"weight": 2.0}})


def test_an_adaptation_without_parameters_has_no_penalty() -> None:
    from refarch.engine.adaptation.training import penalty

    assert float(penalty((), ())) == 0.0
