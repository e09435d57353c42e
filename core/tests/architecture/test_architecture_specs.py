"""Specs are frozen, strict data: through JSON and back, with errors that name the field and the nearest name."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import refarch.architecture as a
from refarch.errors import RefarchError, SpecError

MODULE = a.ModuleSpec(
    name="low_rank",
    workspace=("attention.query", "ffn.hidden"),
    layers=a.Layers(last=2),
    insertion="sequential",
    integration="rescaling",
    input_type="hidden",
    adapted="reparameterisation",
    intra="diagonal",
    inter="fixed",
    form="vector",
    function="package.function:Name",
    arguments={"rank": "$rank", "plain": 3},
    provenance={"form": a.Provenance(source="paper", reference="section 4")},
)
TECHNIQUE = a.TechniqueSpec(
    name="my-technique",
    summary="Something",
    modules=(MODULE,),
    options=(
        a.Option(name="rank", type="integer", default=8, minimum=1, help="r", size=True),
        a.Option(name="kind", type="string", default="a", choices=("a", "b"), help="k"),
        a.Option(name="rate", type="number", help="p", minimum=0, maximum=1),
        a.Option(name="flag", type="boolean", default=False, help="f"),
        a.Option(name="sizes", type="integers", default=(1, 2), help="s"),
    ),
    presets={"small": {"rank": 2}, "other": {"modules": [{**MODULE.model_dump(), "workspace": ["ffn.up"]}]}},
)
FAMILY = a.FamilySpec(
    name="fam",
    summary="A family",
    model_types=("fam",),
    stacks=(a.StackTable(name="encoder", layers="layers.{}", slots={"attention.query": "attn.qkv[0/3] | attn.q?"}),),
    embedding="embed",
    head="head | score",
    tiny=a.TinyModel(model_type="fam", config={"n": 1}, auto_classes=("AutoModel",)),
)
TASK = a.TaskSpec(
    name="t",
    summary="A task",
    implementation="pkg:Task",
    auto_class="AutoModel",
    new_head=True,
    metric="f1",
    options=(a.Option(name="path", type="string", help="file"),),
    defaults={"path": "x"},
)
PIPELINE = a.PipelineSpec.parse({"backbone": "some-model", "techniques": ["lora", {"name": "ia3"}], "task": "t"})
RECORD = a.RunRecord(
    pipeline=PIPELINE,
    score=0.5,
    metric="f1",
    greater_is_better=True,
    metrics={"f1": 0.5},
    seeds=a.Seeds(run=1, head=2, modules=3, data=4),
    times=a.Times(load=1.0),
    trainable_parameters=1,
    module_parameters=1,
    total_parameters=2,
    peak_memory_bytes=None,
    saved_bytes=3,
    steps=4,
    device="cpu",
    threads=1,
    versions={"torch": "2"},
    adaptations=("a",),
    started="now",
    finished="then",
)
SPECS = [
    MODULE,
    TECHNIQUE,
    TECHNIQUE.configure({"rank": 3, "slots": ["ffn.up"], "layers": {"every": 2}}),
    FAMILY,
    a.ModelSpec(name="m", summary="s", source="pkg:path", licence="MIT"),
    TASK,
    PIPELINE,
    RECORD,
    a.Gate(by="token", activation="tanh"),
    a.Layers(indices=(0, -1), stacks=("decoder",)),
    a.Provenance(),
    a.TrainingSpec(max_steps=3),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: type(s).__name__)
def test_json_round_trip_frozen_and_strict(spec: a.Spec) -> None:
    kind = type(spec)
    text = spec.to_json()
    assert kind.from_json(text) == spec and kind.parse(json.loads(text)) == spec
    assert json.loads(spec.to_json(indent=None)) == json.loads(text)
    field = next(iter(kind.model_fields))
    with pytest.raises(Exception, match="frozen"):
        setattr(spec, field, None)
    with pytest.raises(SpecError, match=f"{field}x: there is no such field") as caught:
        kind.parse({**json.loads(text), f"{field}x": 1})
    assert caught.value.hint and repr(field) in caught.value.hint
    for broken in (text[:-3], "[]", "nonsense", "null"):
        with pytest.raises(SpecError):
            kind.from_json(broken)
    schema = kind.model_json_schema()
    assert schema["additionalProperties"] is False and json.dumps(schema)


def test_misspelt_fields_deep_inside_get_the_nearest_name() -> None:
    data = json.loads(TECHNIQUE.to_json())
    data["modules"][0]["insertoin"] = "parallel"
    with pytest.raises(SpecError, match=r"modules\.0\.insertoin: there is no such field") as caught:
        a.TechniqueSpec.parse(data, "spec.yaml")
    assert "spec.yaml is not valid" in str(caught.value) and "'insertion'" in str(caught.value)
    with pytest.raises(SpecError, match=r"training\.batch_sice") as caught:
        a.PipelineSpec.parse({**json.loads(PIPELINE.to_json()), "training": {"batch_sice": 3}})
    assert "'batch_size'" in str(caught.value)


def test_messages_are_plain_words() -> None:
    for call, words in (
        (lambda: a.PipelineSpec.parse({}), ["backbone: is required", "techniques: is required", "task: is required"]),
        (lambda: a.TrainingSpec.parse({"epochs": -1}), ["epochs", "greater than 0", "got -1"]),
        (lambda: a.Layers.parse({"first": 1, "last": 1}), ["choose one of first, last, every, indices"]),
        (lambda: TECHNIQUE.configure({"rnak": 1}), ["technique 'my-technique'", "rnak", "'rank'"]),
        (lambda: TECHNIQUE.configure({"rank": 0}), ["rank", "greater than or equal to 1"]),
        (lambda: TECHNIQUE.configure({"rank": True}), ["should be a number, but got True"]),
        (lambda: TECHNIQUE.configure({"kind": "c"}), ["kind", "'a' or 'b'", "'c'"]),
        (lambda: TECHNIQUE.configure({"rate": 1.5}), ["rate", "less than or equal to 1"]),
        (lambda: TECHNIQUE.configure({"preset": "smal"}), ["no preset 'smal'", "'small'"]),
        (lambda: TECHNIQUE.configure({"slots": ["atention.query"]}), ["no slot 'atention.query'", "'attention.query'"]),
        (lambda: TECHNIQUE.configure({"slots": []}), ["workspace"]),
        (lambda: TECHNIQUE.configure({"layers": "all"}), ["expected layer indices", '{"first": n}']),
        (lambda: a.ModuleSpec.parse({**MODULE.model_dump(), "function": "no colon"}), ["function"]),
    ):
        with pytest.raises(SpecError) as caught:
            call()  # type: ignore[no-untyped-call]
        text = str(caught.value)
        assert all(word in text for word in words), text
        assert not any(noise in text for noise in ("pydantic", "Value error", "errors.pydantic", "input_value")), text


def test_options_bind_presets_and_arguments() -> None:
    configured = TECHNIQUE.configure({"preset": "small", "rate": "0.5", "flag": "true"})
    assert configured.options == {"rank": 2, "kind": "a", "rate": 0.5, "flag": True, "sizes": (1, 2)}
    assert configured.arguments(MODULE) == {"rank": 2, "plain": 3}
    assert TECHNIQUE.configure({"preset": "small", "rank": 4}).options["rank"] == 4
    other = TECHNIQUE.configure({"preset": "other"})
    assert other.technique.modules[0].workspace == ("ffn.up",)
    assert TECHNIQUE.configure({"layers": 1}).technique.modules[0].layers.indices == (1,)
    assert set(TECHNIQUE.options_schema()["properties"]) == {"rank", "kind", "rate", "flag", "sizes"}


@pytest.mark.parametrize(
    "change",
    [
        {"modules": (MODULE, MODULE)},
        {"modules": ()},
        {"options": ()},  # the module uses $rank
        {"options": (*TECHNIQUE.options, a.Option(name="slots", type="string", help="x"))},
        {"name": "Bad Name"},
    ],
)
def test_techniques_that_contradict_themselves(change: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        a.TechniqueSpec.parse({**TECHNIQUE.model_dump(), **change})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a..[1/2",
        "a[3/3]",
        "a[1]",
        "a | ",
        "a b",
        "a[x/3]",
        "a[0/0]",
        "a[0/n]",
        "a[2/n:m]",
        "a[0/3 per]",
        "a[0/3 per 0]",
    ],
)
def test_table_entries_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        a.parse_entry(text)


def test_table_entries() -> None:
    found = a.parse_entry("attn.c_attn[1/3] | wi_1 ?")
    assert [entry.path for entry in found.entries] == ["attn.c_attn", "wi_1"] and found.optional
    assert found.entries[0].part is not None and found.entries[0].part == (1, (1, 1, 1), 1)
    (by_head,) = a.parse_entry("qkv[2/3 per heads]").entries
    (unequal,) = a.parse_entry("qkv[0/heads:2:groups]").entries
    assert by_head.part == (2, (1, 1, 1), "heads") and unequal.part == (0, ("heads", 2, "groups"), 1)
    assert by_head.part.resolve({"heads": 4}.__getitem__).width(48) == 16
    assert unequal.part.resolve({"heads": 4, "groups": 2}.__getitem__).sizes(16) == [8, 4, 4]
    with pytest.raises(SpecError, match=r"'attention.query'"):
        a.StackTable.parse({"name": "encoder", "layers": "l.{}", "slots": {"attention.querry": "q"}})
    with pytest.raises(SpecError, match="two stacks have one name"):
        a.FamilySpec.parse({**FAMILY.model_dump(), "stacks": [s.model_dump() for s in FAMILY.stacks * 2]})


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=30) | st.sampled_from([f"{name}:{side}" for name in a.SLOTS for side in ("input", "output", "")])
)
def test_slots_parse_or_say_why_and_print_as_they_parse(text: str) -> None:
    try:
        ref = a.parse_slot(text)
    except ValueError as error:
        assert repr(text) in str(error) or "only a linear slot" in str(error)
    else:
        assert a.parse_slot(str(ref)) == ref


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 12),
    choice=st.one_of(
        st.just({}),
        st.builds(lambda n: {"first": n}, st.integers(1, 14)),
        st.builds(lambda n: {"last": n}, st.integers(1, 14)),
        st.builds(lambda n: {"every": n}, st.integers(1, 14)),
        st.builds(lambda i: {"indices": tuple(i)}, st.lists(st.integers(-14, 14), min_size=1, max_size=5)),
    ),
)
def test_layers_choose_some_and_only_those_that_are_there(count: int, choice: dict[str, Any]) -> None:
    try:
        chosen = a.Layers(**choice).choose(count)
    except ValueError:
        reach = [abs(i + 0.5) + 0.5 for i in choice.get("indices", ())] + [
            choice.get("first", 0),
            choice.get("last", 0),
        ]
        assert max(reach) > count
        return
    assert chosen == sorted(set(chosen)) and chosen and all(0 <= i < count for i in chosen)
    if "indices" in choice:
        assert {i % count for i in choice["indices"]} == set(chosen)
    elif "first" in choice:
        assert chosen == list(range(count))[: choice["first"]]
    elif "last" in choice:
        assert chosen == list(range(count))[-choice["last"] :]
    else:
        assert chosen == list(range(count))[:: choice.get("every", 1)]


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["rank", "kind", "rate", "flag", "sizes", "rnak"]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(max_size=4),
            st.lists(st.integers(), max_size=3),
        ),
    )
)
def test_any_choice_is_bound_completely_or_refused(choice: dict[str, Any]) -> None:
    try:
        configured = TECHNIQUE.configure(choice)
    except SpecError as error:
        assert error.exit_code == 2 and str(error)
        return
    assert set(configured.options) == {"rank", "kind", "rate", "flag", "sizes"}
    assert configured.options["rank"] >= 1 and configured.options["kind"] in ("a", "b")
    assert a.ConfiguredTechnique.from_json(configured.to_json()) == configured


def test_errors_survive_pickling_and_show_their_hint() -> None:
    import pickle

    error = SpecError("what", "do this")
    again = pickle.loads(pickle.dumps(error))
    assert (again.message, again.hint, str(again)) == ("what", "do this", "what\n  hint: do this")
    assert isinstance(again, RefarchError) and str(RefarchError("x")) == "x"


def test_architecture_and_plugins_import_no_torch() -> None:
    code = (
        "import sys, refarch, refarch.architecture, refarch.plugins, refarch.plugins.registry;"
        "registry = refarch.default_registry();"
        "registry.technique('lora'); registry.families();"
        "refarch.plugins.hooks;"
        "print([m for m in ('torch', 'transformers', 'numpy', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_module_becomes_a_part_of_another_technique():
    """With the owner's defaults for what the other technique has no option for."""
    part = TECHNIQUE.module("low_rank", workspace=("ffn.up",), arguments={"rank": "$width"})
    assert part.arguments == {"rank": "$width", "plain": 3}
    assert (part.workspace, part.layers, part.form) == (("ffn.up",), MODULE.layers, MODULE.form)
    assert TECHNIQUE.module("low_rank", preset="small").arguments == {"rank": 2, "plain": 3}
    assert TECHNIQUE.module("low_rank", preset="other").workspace == ("ffn.up",)
    plain = TECHNIQUE.model_copy(update={"modules": (MODULE.model_copy(update={"arguments": {}}),)})
    assert plain.module("low_rank", arguments={"rate": "$p"}).arguments == {
        "rank": 8,
        "kind": "a",
        "rate": "$p",
        "flag": False,
        "sizes": (1, 2),
    }
    with pytest.raises(SpecError, match="no module 'lowrank'"):
        TECHNIQUE.module("lowrank")
    with pytest.raises(SpecError, match="no preset"):
        TECHNIQUE.module("low_rank", preset="smal")
    with pytest.raises(SpecError, match="workspaces"):
        TECHNIQUE.module("low_rank", workspaces=("ffn.up",))
