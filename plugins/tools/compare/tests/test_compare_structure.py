"""Structure: features from specs, a distance that is a metric, relations in words, the map."""

from __future__ import annotations

import itertools
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from refarch_compare import naming
from refarch_compare.structure import distance as d
from refarch_compare.structure.features import LEFT_OUT, Feature, Module, Structure, structure
from refarch_compare.structure.picture import Box, picture, survey
from refarch_compare.structure.plane import plane, tree

from refarch import Gate, ModuleSpec, TechniqueSpec, default_registry
from refarch.cli import main
from refarch.errors import SpecError, UnknownNameError, UsageError

WORDS = st.sampled_from(["a", "b", "c"])
VALUE = st.builds(lambda v: Feature("value", "value", v), WORDS)
SET = st.builds(lambda v: Feature("set", "set", frozenset(v)), st.sets(WORDS))
NUMBER = st.builds(lambda v: Feature("number", "number", v), st.floats(-5, 5, width=32))  # no mean of them is lost
GROUP = st.one_of(
    st.just(Feature("group", "value", None)),
    st.builds(lambda a, b: Feature("group", "group", {"value": a, "number": b}), VALUE, NUMBER),
)
MODULE = st.builds(lambda *parts: Module("m", {part.name: part for part in parts}, "f"), VALUE, SET, NUMBER, GROUP)
STRUCTURE = st.builds(lambda modules: Structure("x", tuple(modules)), st.lists(MODULE, min_size=1, max_size=3))


def named(text: str) -> Structure:
    found = naming.parse(text, default_registry())
    return structure(found.technique, text)


def technique(*modules: dict, **options: int) -> TechniqueSpec:
    common = {
        "insertion": "parallel",
        "integration": "scaled addition",
        "input_type": "hidden",
        "adapted": "addition",
        "intra": "dense",
        "inter": "fixed",
        "form": "mlp",
        "function": "package.function:Name",
    }
    made = [{"name": f"m{i}", "workspace": ["ffn"], **common, **module} for i, module in enumerate(modules)]
    listed = [{"name": n, "type": "integer", "default": v, "minimum": 0, "help": n} for n, v in options.items()]
    return TechniqueSpec.parse({"name": "made", "summary": "made", "modules": made, "options": listed})


@settings(max_examples=150, deadline=None)
@given(STRUCTURE, STRUCTURE, STRUCTURE)
def test_the_distance_is_a_metric(a: Structure, b: Structure, c: Structure) -> None:
    ab, bc, ac = d.distance(a, b), d.distance(b, c), d.distance(a, c)
    assert 0 <= ab <= 1
    assert ab == pytest.approx(d.distance(b, a))
    assert ac <= ab + bc + 1e-9
    assert d.distance(a, a) == 0
    assert (ab == 0) == (d.changes(a, b) == [])


@settings(max_examples=60, deadline=None)
@given(STRUCTURE, st.randoms(use_true_random=False))
def test_the_order_of_modules_does_not_matter(a: Structure, random) -> None:
    turned = list(a.modules)
    random.shuffle(turned)
    assert d.distance(a, Structure("y", tuple(turned))) == pytest.approx(0)


@settings(max_examples=60, deadline=None)
@given(STRUCTURE, STRUCTURE)
def test_the_matching_is_the_cheapest_one(a: Structure, b: Structure) -> None:
    fewer, more = sorted((a.modules, b.modules), key=len)
    cheapest = min(
        sum(d.module_distance(x, y) for x, y in zip(fewer, chosen, strict=True))
        for chosen in itertools.permutations(more, len(fewer))
    )
    assert d.distance(a, b) == pytest.approx((cheapest + len(more) - len(fewer)) / len(more))


def test_every_property_of_a_module_spec_is_a_feature() -> None:
    spec = technique({}).configure({})
    (module,) = structure(spec).modules
    assert set(module.features) == set(ModuleSpec.model_fields) - set(LEFT_OUT)


def test_a_property_that_the_architecture_gains_appears_by_itself() -> None:
    class Wider(ModuleSpec):
        places: tuple[int, ...] = (0, -1)
        tempo: str = "slow"

    assert not {"places", "tempo"} & set(ModuleSpec.model_fields)
    base = technique({}).modules[0]
    wide = [Wider.model_validate({**base.model_dump(), "tempo": tempo}) for tempo in ("slow", "quick")]
    made = [structure(technique({}).model_copy(update={"modules": (module,)}).configure({})) for module in wide]
    assert made[0].modules[0].features["places"].value == {0, -1}
    (change,) = d.changes(made[0], made[1])
    assert (change.property, change.before, change.after) == ("tempo", "slow", "quick")


def test_one_changed_property_of_so_many() -> None:
    one, other = (structure(technique(change).configure({})) for change in ({}, {"intra": "structured"}))
    count = len(one.modules[0].features)
    assert d.distance(one, other) == pytest.approx(1 / count)
    (change,) = d.changes(one, other)
    assert change.text == "intra-connectivity structured instead of dense"


def test_workspaces_differ_by_what_they_do_not_share() -> None:
    slots = (["attention.query", "attention.value"], ["attention.query", "attention.key", "cross_attention.key?"])
    one, other = (structure(technique({"workspace": list(s), "form": "mlp"}).configure({})) for s in slots)
    count = len(one.modules[0].features)
    assert d.distance(one, other) == pytest.approx((1 - 1 / 4) / count)
    alias = [structure(technique({"workspace": [s], "integration": "rescaling", "insertion": "sequential",
                                  "form": "vector", "intra": "diagonal"}).configure({}))
             for s in ("ffn.hidden", "ffn.down:input")]  # fmt: skip
    assert d.distance(*alias) == 0


def test_a_gate_is_one_property_with_parts() -> None:
    gated = {"integration": "gated addition", "gate": Gate().model_dump()}
    other = {"integration": "gated addition", "gate": Gate(by="token").model_dump()}
    plain, one, two = (structure(technique(change).configure({})) for change in ({}, gated, other))
    count = len(one.modules[0].features)
    assert d.distance(one, two) == pytest.approx(1 / len(Gate.model_fields) / count)
    assert d.distance(plain, one) == pytest.approx(2 / count)  # the integration form and the gate


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"positions": {"first": "$first"}}, {"positions": {"first": "$start"}}),
        ({"positions": {"first": "$first", "last": "$last"}}, {"positions": {"first": 1, "last": 2}}),
        (
            {"routing": "soft", "inter": "dynamic", "router": {"experts": "$experts"}},
            {"routing": "soft", "inter": "dynamic", "router": {"experts": "$mixed"}},
        ),
        ({"schedule": "package.module:Budget"}, {"schedule": "another.module:Budget"}),
    ],
)
def test_what_options_and_code_are_called_is_no_property(one: dict, other: dict) -> None:
    options = {"first": 1, "start": 1, "last": 2, "experts": 4, "mixed": 4}
    made = [structure(technique(change, **options).configure({})) for change in (one, other)]
    assert d.distance(*made) == 0
    plain = structure(technique({}).configure({}))
    assert d.distance(plain, made[0]) > 0


def test_how_many_tokens_and_experts_are_numbers() -> None:
    def at(first: int) -> Structure:
        return structure(technique({"positions": {"first": "$first"}}, first=1).configure({"first": first}))

    everywhere = structure(technique({}).configure({}))
    assert d.distance(at(1), at(2)) < d.distance(at(1), at(4)) < d.distance(at(1), everywhere)
    (change,) = d.changes(at(1), at(4))
    assert change.text == "positions first=4, last=0 instead of first=1, last=0"


def test_a_module_more_counts_as_much_as_a_whole_one() -> None:
    one, two = structure(technique({}).configure({})), structure(technique({}, {}).configure({}))
    assert d.distance(one, two) == 0.5
    (change,) = d.changes(one, two)
    assert change.text.startswith("a module m1 in addition")
    (gone,) = d.changes(two, one)
    assert "left out" in gone.text


def test_a_preset_is_its_technique_with_one_property_changed() -> None:
    pfeiffer = named("adapter:pfeiffer")
    near = d.nearest(pfeiffer, [named("adapter:houlsby"), named("lora"), named("bitfit")])
    assert near is not None
    assert near.label == "adapter:houlsby"
    assert [change.property for change in near.changes] == ["workspace"]
    assert near.text("adapter:pfeiffer").startswith(
        "adapter:pfeiffer = adapter:houlsby with workspace ffn.down instead"
    )


def test_mam_is_a_parallel_adapter_and_a_prefix() -> None:
    near = d.nearest(named("mam"), [named("adapter:parallel"), named("ia3")])
    assert near is not None
    assert (near.label, near.distance) == ("adapter:parallel", 0.5)
    assert [(change.property, change.after) for change in near.changes] == [("module", "prefix")]


def test_nothing_is_nearest_where_nothing_is_known() -> None:
    assert d.nearest(named("lora"), []) is None


def test_names_with_presets_and_options() -> None:
    registry = default_registry()
    made = naming.parse("adapter:pfeiffer,bottleneck=12", registry).technique
    assert (made.technique.modules[0].workspace, made.options["bottleneck"]) == (("ffn.down",), 12)
    slots = naming.parse("lora:slots=[ffn.up, ffn.down],layers={last: 1},rank=2", registry).technique
    assert slots.technique.modules[0].workspace == ("ffn.up", "ffn.down")
    assert slots.technique.modules[0].layers.last == 1
    assert naming.label(made) == "adapter:bottleneck=12,activation=relu"


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("lroa", UnknownNameError, "lora"),
        ("lora:", UsageError, "NAME:preset"),
        ("lora:rank=", UsageError, "rank="),
        ("lora:rank=1,rank=2", UsageError, "given twice"),
        ("lora:rnak=2", SpecError, "rank"),
        ("adapter:pfeifer", SpecError, "pfeiffer"),
        ("lora:slots=[ffn.up", UsageError, "YAML"),
        (":rank=2", UsageError, "no technique"),
    ],
)
def test_names_that_are_none(text: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        naming.parse(text, default_registry())


def test_a_plane_shows_plane_distances_exactly() -> None:
    points = np.random.default_rng(0).normal(size=(9, 2))
    apart = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    found = plane(apart)
    again = np.sqrt(((found.points[:, None] - found.points[None]) ** 2).sum(-1))
    assert found.stress < 1e-6
    np.testing.assert_allclose(again, apart, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_techniques_make_a_map_too(count: int) -> None:
    found = survey([named(name) for name in ("lora", "ia3", "bitfit")[:count]])
    ET.fromstring(picture(found))
    assert sorted(found.tree.order) == list(range(count))


def test_the_tree_cuts_into_groups() -> None:
    apart = np.array([[0, 0.1, 0.8], [0.1, 0, 0.8], [0.8, 0.8, 0]])
    found = tree(apart, 0.3)
    assert found.groups[0] == found.groups[1] != found.groups[2]
    assert [join[4] for join in found.joins] == pytest.approx([0.1, 0.8])


def test_no_two_labels_of_the_map_overlap() -> None:
    everything = [structure(item.technique, item.label) for item in naming.variants(default_registry())]
    root = ET.fromstring(picture(survey(everything)))
    boxes = []
    for item in root.iter("{http://www.w3.org/2000/svg}text"):
        width = 7.2 * len(item.text or "")
        x = float(item.get("x")) - {"start": 0, "middle": width / 2, "end": width}[item.get("text-anchor")]
        boxes.append((item.text, Box(x, float(item.get("y")) - 11, width, 13)))
        if "soft" not in item.get("class"):
            assert x >= 0 and x + width <= float(root.get("width")), item.text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.meets(b), f"{one!r} meets {other!r}"
    shown = " ".join(text for text, _ in boxes if text)
    assert all(item.label in shown for item in everything)


def test_the_command_marks_differences(capsys) -> None:
    assert main(["compare", "structure", "lora", "ia3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "integration form" in line and line.lstrip().startswith("*")]
    assert "scaled addition" in row and "rescaling" in row
    assert any(line.startswith("equal in all:") and "input type hidden" in line for line in lines)
    assert any(line.startswith("lora = ") for line in lines)


def test_the_command_as_json_and_its_map(capsys, tmp_path) -> None:
    path = tmp_path / "map.svg"
    assert main(["compare", "structure", "lora", "mam", "--json", "--map", str(path)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [item["module"] for item in data["techniques"]["mam"]] == ["prefix", "bottleneck"]
    assert data["distances"]["lora"]["mam"] == data["distances"]["mam"]["lora"] > 0
    assert set(data["nearest"]) == {"lora", "mam"}
    assert "lora" in data["map"]["points"]
    assert "prefers-color-scheme: dark" in path.read_text(encoding="utf-8")


def test_the_command_without_names_shows_everything(capsys) -> None:
    assert main(["compare", "structure"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^ *{re.escape(name)} ", out, re.M) for name in ("lora", "ia3", "bitfit"))


def test_the_command_says_what_is_wrong(capsys) -> None:
    assert main(["compare", "structure", "lroa"]) == 2
    assert "lora" in capsys.readouterr().err
