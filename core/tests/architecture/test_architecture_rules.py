"""Every rule about impossible combinations is violated by some combination, and says its reason."""

from typing import Any

import pytest

from refarch.architecture import RULES, Gate, ModuleSpec
from refarch.architecture.properties import MEANING, describe
from refarch.errors import SpecError

ADDITION: dict[str, Any] = {
    "name": "part",
    "workspace": ["attention.query"],
    "insertion": "parallel",
    "integration": "scaled addition",
    "input_type": "hidden",
    "adapted": "addition",
    "intra": "dense",
    "inter": "fixed",
    "form": "linear",
    "function": "package.function:Name",
}
SELECTION = {
    **ADDITION,
    "integration": "selection",
    "adapted": "selection",
    "input_type": "weights",
    "insertion": "sequential",
    "function": None,
    "parameters": ["bias"],
}
CONCATENATION = {
    **ADDITION,
    "integration": "concatenation",
    "form": "tokens",
    "input_type": "data",
    "workspace": ["inputs"],
}
TRANSFORMATION = {
    **ADDITION,
    "integration": "transformation",
    "input_type": "weights",
    "adapted": "reparameterisation",
}
RESCALING = {**ADDITION, "integration": "rescaling", "insertion": "sequential", "form": "vector", "intra": "diagonal"}
GATED = {**ADDITION, "integration": "gated addition", "gate": {"by": "token"}}
ATTENDED = {**CONCATENATION, "workspace": ["attention.key_value"], "integration": "gated addition", "gate": {}}
GATED_PREFIX = {**CONCATENATION, "workspace": ["attention.key_value"], "gate": {"by": "example"}}
ATTENTION = {**ADDITION, "workspace": ["attention"], "form": "attention", "inter": "dynamic"}
ROUTED = {**ADDITION, "routing": "soft", "inter": "dynamic", "router": {"experts": 4}}
POSSIBLE = [
    *(ADDITION, SELECTION, CONCATENATION, TRANSFORMATION, RESCALING, GATED),
    *(ATTENDED, GATED_PREFIX, ATTENTION, ROUTED),
]

BROKEN: dict[str, dict[str, Any]] = {
    "each slot once": {**RESCALING, "workspace": ["ffn.hidden", "ffn.down:input"]},
    "selection goes with selection": {**SELECTION, "adapted": "addition"},
    "selection has no function": {**SELECTION, "function": "a:B"},
    "selection names parameters": {**SELECTION, "parameters": []},
    "selection trains at the learning rate": {**SELECTION, "learning_rate_scale": {"bias": 2.0}},
    "a schedule steers functions": {**SELECTION, "schedule": "package.schedule:Name"},
    "everything else has a function": {**ADDITION, "function": None},
    "selection of modules' parameters": {**SELECTION, "workspace": ["inputs"]},
    "concatenation at a sequence": {**CONCATENATION, "workspace": ["attention.key"]},
    "a sequence takes concatenation": {**ADDITION, "workspace": ["attention.key_value"]},
    "gated attention over free tokens": {**ATTENDED, "form": "mlp"},
    "projected tokens are keys and values": {**CONCATENATION, "projected": True},
    "counted tokens stand before others": {
        **CONCATENATION,
        "workspace": ["cross_attention.key_value"],
        "counted": True,
    },
    "concatenation of free tokens": {**CONCATENATION, "input_type": "hidden"},
    "tokens are concatenated": {**ADDITION, "form": "tokens"},
    "concatenation is parallel": {**CONCATENATION, "insertion": "sequential"},
    "transformation reads weights": {**TRANSFORMATION, "input_type": "hidden"},
    "transformation at a linear slot": {**TRANSFORMATION, "workspace": ["ffn.norm"]},
    "transformation has no side": {**TRANSFORMATION, "workspace": ["ffn.down:input"]},
    "transformation reparameterises": {**TRANSFORMATION, "adapted": "addition"},
    "rescaling by a vector": {**RESCALING, "intra": "dense"},
    "rescaling is sequential": {**RESCALING, "insertion": "parallel"},
    "attention is dynamic": {**ATTENTION, "inter": "fixed"},
    "attention is added": {**CONCATENATION, "form": "attention", "inter": "dynamic"},
    "attention at the self-attention sublayer": {**ATTENTION, "workspace": ["attention", "cross_attention"]},
    "addition at an output": {**ADDITION, "workspace": ["ffn.hidden"]},
    "addition reads hidden states": {**ADDITION, "input_type": "data"},
    "no parallel reading of token ids": {**ADDITION, "workspace": ["embedding"]},
    "only parameters of head and model": {**ADDITION, "workspace": ["head"]},
    "a gate belongs to gated addition": {**GATED, "gate": None},
    "real tokens are known in a stack": {
        **GATED,
        "insertion": "sequential",
        "workspace": ["embedding"],
        "gate": {"by": "example"},
    },
    "a gate of keys and values is of the example": {
        **CONCATENATION,
        "workspace": ["attention.key_value"],
        "gate": {"by": "token"},
    },
    "some positions get an added contribution": {**RESCALING, "positions": {"first": 1}},
    "an update of weights is at all positions": {
        **ADDITION,
        "adapted": "reparameterisation",
        "positions": {"first": 1},
    },
    "routing goes with a router": {**ROUTED, "router": None},
    "contributions and factors are routed": {**CONCATENATION, "routing": "fixed", "router": {"experts": 4}},
    "routing by input is dynamic": {**ROUTED, "inter": "fixed"},
    "hard routing chooses some": {**ROUTED, "routing": "hard"},
    "weights of all experts sum to one": {**ROUTED, "router": {"experts": 4, "renormalise": False}},
    "sharing names what is shared": {**ADDITION, "sharing": "across model"},
    "reparameterisation is mergeable in form": {**ADDITION, "adapted": "reparameterisation", "form": "mlp"},
}


@pytest.mark.parametrize("fields", POSSIBLE, ids=lambda f: f"{f['integration']}-{f['form']}")
def test_each_form_is_possible(fields: dict[str, Any]) -> None:
    spec = ModuleSpec.parse(fields)
    assert ModuleSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_is_violated_by_something_and_says_why(rule: Any) -> None:
    assert rule.name in BROKEN, f"write a combination that violates {rule.name!r}"
    with pytest.raises(SpecError) as caught:
        ModuleSpec.parse(BROKEN[rule.name])
    assert rule.reason in caught.value.message and f"[{rule.name}]" in caught.value.message
    assert "module 'part'" in caught.value.message and "Value error" not in caught.value.message


def test_all_reasons_are_given_at_once_and_read_as_sentences() -> None:
    with pytest.raises(SpecError) as caught:
        ModuleSpec.parse({**SELECTION, "function": "a:B", "parameters": []})
    assert "[selection has no function]" in caught.value.message and "[selection names" in caught.value.message
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(len(rule.reason) > 30 and not rule.reason.endswith(".") for rule in RULES)


def test_the_other_side_of_rules_with_two_sides() -> None:
    for fields in (
        {**ADDITION, "adapted": "selection"},
        {**ADDITION, "parameters": ["weight"]},
        {**ADDITION, "gate": {}},
        {**ADDITION, "shared": ["down"]},
        {**ADDITION, "router": {"experts": 4}},
        {**ROUTED, "router": {"experts": 4, "top": 2}},
        {**ATTENTION, "routing": "soft", "router": {"experts": 4}},
        {**ADDITION, "input_type": "weights"},
    ):
        with pytest.raises(SpecError):
            ModuleSpec.parse(fields)


def test_every_value_has_a_meaning() -> None:
    from typing import get_args

    from refarch.architecture import properties

    kinds = {
        "insertion": "InsertionForm",
        "integration": "IntegrationForm",
        "input_type": "InputType",
        "form": "FunctionalForm",
    }
    for name, values in MEANING.items():
        kind = kinds.get(name, name.capitalize())
        assert set(get_args(getattr(properties, kind))) == set(values), name
    assert describe("insertion", "parallel") and describe("insertion", "?") == "" and describe("?", "x") == ""


def test_gates() -> None:
    assert Gate.parse({"by": "example", "activation": "tanh", "convex": True}).by == "example"
    for wrong in ({"by": "word"}, {"activation": "relu"}, {"konvex": True}):
        with pytest.raises(SpecError):
            Gate.parse(wrong)
