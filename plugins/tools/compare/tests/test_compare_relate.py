"""Relating structure to results, on evidence whose truth is known, and on what others published."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from refarch_compare.evidence.peft_comparison import import_results
from refarch_compare.evidence.row import Row
from refarch_compare.evidence.store import load
from refarch_compare.relate.confound import separate
from refarch_compare.relate.design import design
from refarch_compare.relate.properties import properties, table
from refarch_compare.relate.relating import relate

from refarch import ConfiguredTechnique, ModuleSpec, TechniqueSpec, default_registry
from refarch.cli import main
from refarch.errors import UnknownNameError, UsageError

PUBLISHED = Path(__file__).resolve().parents[5] / "shared" / "evidence" / "peft-method-comparison"
CHOICES = {
    "insertion": ("parallel", "sequential"),
    "integration": ("direct addition", "scaled addition"),
    "form": ("linear", "mlp"),
    "intra": ("dense", "structured"),
    "workspace": (("attention.query",), ("attention.query", "ffn.down")),
}


def spec(number, **chosen):
    module = ModuleSpec(
        name="part",
        input_type="hidden",
        adapted="addition",
        inter="fixed",
        function="nowhere:Part",
        **{name: values[0] for name, values in CHOICES.items()} | chosen,
    )
    return ConfiguredTechnique(technique=TechniqueSpec(name=f"t{number}", summary="made up", modules=(module,)))


def evidence(
    effects,
    *,
    seed=0,
    keep=lambda chosen: True,
    backbones=3,
    tasks=3,
    seeds=2,
    noise=0.01,
    own=0.01,
    response="score",
):
    """Rows of every combination of the choices: a mean for each backbone and task, an own for each technique, noise."""
    random = np.random.default_rng(seed)
    levels = {(kind, i): random.normal(0, 0.1) for kind in ("backbone", "task") for i in range(10)}
    rows = []
    combinations = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]
    for number, chosen in enumerate(filter(keep, combinations)):
        technique = spec(number, **chosen)
        mean = 0.7 + random.normal(0, own) + sum(size for name, value, size in effects if chosen[name] == value)
        for b, t, s in itertools.product(range(backbones), range(tasks), range(seeds)):
            value = mean + levels["backbone", b] + levels["task", t] + random.normal(0, noise)
            rows.append(
                Row(
                    technique=technique.name,
                    specs=(technique,),
                    backbone=f"b{b}",
                    task=f"k{t}",
                    metric="accuracy",
                    score=value if response == "score" else 0.5,
                    train_seconds=10**value,
                    seed=s,
                )
            )
    return rows


def by_name(relation):
    return {effect.name: effect for effect in relation.effects}


PLANTED = (("insertion", "sequential", 0.05), ("form", "mlp", -0.03))


def test_planted_effects_are_recovered_within_their_intervals_and_nothing_else_is_found():
    relation = relate(evidence(PLANTED, seeds=1))
    found = by_name(relation)
    insertion, form = found["insertion = sequential"], found["form = mlp"]
    assert insertion.low <= 0.05 <= insertion.high and insertion.verdict == "goes with more"
    assert form.low <= -0.03 <= form.high and form.verdict == "goes with less"
    others = {name: effect for name, effect in found.items() if effect not in (insertion, form)}
    assert {effect.verdict for effect in others.values()} == {"within noise"} and len(others) == 3
    assert relation.confounds == ()
    assert (relation.rows, relation.configurations, relation.imported) == (32 * 9, 32, 0)
    assert "random intercept for each backbone" in relation.model and "for each configuration" in relation.model
    assert relation.importance is not None and relation.importance.explained > 0.5
    structural = [name for name in relation.importance.loss if name not in ("backbone", "task")]
    assert structural[:2] == ["insertion", "form"]


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    hits, alarms, runs = 0, 0, 30
    for seed in range(runs):
        rows = evidence(PLANTED[:1], seed=seed, backbones=2, tasks=2, own=0.02)
        found = by_name(relate(rows, check=False))
        hits += found["insertion = sequential"].low <= 0.05 <= found["insertion = sequential"].high
        alarms += any(e.verdict != "within noise" for name, e in found.items() if name != "insertion = sequential")
    assert hits >= runs - 5  # 95% of 30, less three standard errors
    assert alarms <= 5


def test_seeds_are_no_further_techniques():
    """Ten times the seeds must not turn what techniques differ in by themselves into an effect."""
    few = by_name(relate(evidence((), seeds=1, noise=0.001, own=0.03, seed=3), check=False))["form = mlp"]
    many = by_name(relate(evidence((), seeds=5, noise=0.001, own=0.03, seed=3), check=False))["form = mlp"]
    assert (many.high - many.low) > 0.7 * (few.high - few.low)


def test_planted_confounding_is_named_and_its_effect_not_guessed_apart():
    rows = evidence(PLANTED[:1], keep=lambda c: (c["insertion"] == "sequential") == (c["intra"] == "structured"))
    relation = relate(rows, check=False)
    (confound,) = [c for c in relation.confounds if c.kind == "the same rows"]
    assert set(confound.columns) == {"insertion = sequential", "intra = structured"}
    assert "cannot be separated" in confound.words
    found = by_name(relation)
    (together,) = [name for name in confound.columns if name in found]
    assert found[together].verdict == "cannot be separated"
    assert found[together].low <= 0.05 <= found[together].high
    assert len(found) == 4


def test_a_property_fixed_by_two_others_is_named_with_both():
    def keep(chosen):  # structured exactly where both sequential and nonlinear, or neither
        return (chosen["intra"] == "structured") == ((chosen["insertion"] == "sequential") == (chosen["form"] == "mlp"))

    told = design(evidence((), keep=keep))
    assert separate(told).confounds == ()  # an interaction is no linear combination

    def either(chosen):
        both = chosen["insertion"] == "sequential" and chosen["form"] == "mlp"
        return not both and (chosen["intra"] == "structured") == (
            chosen["insertion"] == "sequential" or chosen["form"] == "mlp"
        )

    (confound,) = [c for c in separate(design(evidence((), keep=either))).confounds if c.kind == "a combination"]
    assert set(confound.columns) == {"insertion = sequential", "form = mlp", "intra = dense"}


def test_nearly_collinear_properties_are_named():
    rows = evidence((), keep=lambda c: (c["insertion"] == "sequential") == (c["intra"] == "structured"))
    odd = spec(99, insertion="sequential")
    rows.append(rows[0].model_copy(update={"technique": "t99", "specs": (odd,)}))
    near = [c for c in separate(design(rows)).confounds if c.kind == "nearly a combination"]
    assert {frozenset(name.partition(" = ")[0] for name in c.columns) for c in near} == {
        frozenset({"insertion", "intra"})
    }


def test_a_property_that_goes_with_the_learning_rate_or_the_backbone_is_not_called_an_effect():
    rows = [
        row.model_copy(update={"learning_rate": 1e-3 if row.specs[0].technique.modules[0].form == "mlp" else 1e-4})
        for row in evidence((("form", "mlp", 0.05),))
    ]
    relation = relate(rows, check=False)
    assert "form = mlp" not in by_name(relation)
    assert by_name(relation)["learning_rate, ten times"].verdict == "cannot be separated"
    moved = [
        row.model_copy(update={"backbone": "x" if row.specs[0].technique.modules[0].form == "mlp" else "y"})
        for row in evidence((("form", "mlp", 0.05),))
    ]
    relation = relate(moved, check=False)
    assert "form = mlp" not in by_name(relation)
    assert any({"backbone", "form = mlp"} <= set(confound.columns) for confound in relation.confounds)


def test_a_property_of_one_technique_alone_is_that_technique():
    def keep(chosen):
        return chosen["form"] == "linear"

    rows = evidence((), keep=keep)
    odd = spec(77, form="mlp")
    better = {"technique": "odd", "specs": (odd,), "score": 0.99}
    rows += [row.model_copy(update=better) for row in rows[:18]]
    relation = relate(rows, check=False)
    assert any(c.kind == "one technique" and c.columns == ("form = mlp", "technique odd") for c in relation.confounds)
    assert by_name(relation)["form = mlp"].verdict != "goes with more"


def test_costs_are_related_as_ratios():
    relation = relate(evidence(PLANTED, response="train_seconds"), "train_seconds", check=False)
    effect = by_name(relation)["insertion = sequential"]
    assert relation.ratio and relation.unit == "as a ratio"
    assert effect.low <= 10**0.05 <= effect.high and effect.low > 1


def test_too_little_evidence_is_refused():
    rows = evidence(PLANTED, keep=lambda c: c["intra"] == "dense" and c["integration"] == "direct addition")
    with pytest.raises(UsageError, match="8 configurations of techniques are too few to relate 3 properties"):
        relate(rows)
    assert relate(rows, only=["insertion"], check=False).effects[0].of == "insertion"
    with pytest.raises(UsageError, match="too few to relate 0 properties"):
        relate(rows, only=["inter"])
    nothing = [row.model_copy(update={"specs": ()}) for row in rows]
    with pytest.raises(UsageError, match="technique that is installed"):
        relate(nothing)


def test_unknown_names_get_the_nearest():
    rows = evidence(())
    with pytest.raises(UnknownNameError, match="no property 'insertn'") as error:
        relate(rows, only=["insertn"])
    assert "'insertion'" in (error.value.hint or "")
    with pytest.raises(UnknownNameError, match="no figure 'train_second'") as error:
        relate(rows, "train_second")
    assert "'train_seconds'" in (error.value.hint or "")


def test_scores_of_several_metrics_are_turned_and_scaled():
    rows = evidence(PLANTED[:1])
    lower = [
        row.model_copy(update={"metric": "loss", "greater_is_better": False, "score": -7 * row.score})
        for row in rows
        if row.task == "k0"
    ]
    told = design([*(row for row in rows if row.task != "k0"), *lower])
    assert told.unit == "standard deviations of the metric"
    effect = by_name(relate([*(row for row in rows if row.task != "k0"), *lower], check=False))[
        "insertion = sequential"
    ]
    assert effect.effect > 0 and effect.verdict == "goes with more"


def test_properties_are_read_from_specs_of_every_installed_technique():
    registry = default_registry()
    rows = [
        Row(
            technique=name,
            specs=(registry.technique(name).configure({}),),
            backbone="b",
            task="t",
            metric="m",
            score=1.0,
        )
        for name in registry.names("technique")
    ]
    found = table(rows)
    at = {row.technique: i for i, row in enumerate(rows)}
    assert found["integration"][at["lora"]] == "scaled addition" and found["integration"][at["ia3"]] == "rescaling"
    assert found["at inputs"][at["prompt-tuning"]] == "yes" and found["at inputs"][at["lora"]] == "no"
    assert found["integration"][at["mam"]] == "concatenation and scaled addition"
    assert found["at attention"][at["mam"]] == found["at ffn"][at["mam"]] == "yes"
    assert found["at norms"][at["ln-tuning"]] == "yes" and found["frozen"][at["vera"]] == "yes"
    text = {
        name
        for name, field in ModuleSpec.model_fields.items()
        if isinstance(getattr(rows[0].specs[0].technique.modules[0], name), str)
    }
    assert text - {"name", "function"} <= set(properties(rows[0]))


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="needs shared/evidence/peft-method-comparison beside the repository")
def test_the_imported_evidence_says_what_it_can_and_no_more(tmp_path, capsys):
    import_results(PUBLISHED, tmp_path)
    rows = [row for row in load([tmp_path]).rows if row.task == "MetaMathQA"]
    relation = relate(rows, check=False)
    assert relation.imported == relation.rows >= 27 and relation.left_out <= 36
    structural = [effect for effect in relation.effects if effect.of not in ("learning_rate", "trainable_parameters")]
    assert all(effect.verdict in ("within noise", "cannot be separated") for effect in structural)
    assert any("integration = gated addition" in confound.columns for confound in relation.confounds)
    code = main(["compare", "relate", str(tmp_path), "--property", "insertion", "--property", "integration", "--json"])
    data = json.loads(capsys.readouterr().out)
    assert code == 0 and data["imported"] == data["rows"] and data["importance"]["explained"] < 1
    code = main(["compare", "relate", str(tmp_path), "--property", "insertion", "--property", "integration"])
    out = capsys.readouterr().out
    assert code == 0 and "of them imported" in out and "cannot separate" in out
