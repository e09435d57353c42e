"""The table of mappings is complete and right about both sides' names; and a plugin can bring one of its own."""

import dataclasses
import json
import types
from pathlib import Path
from typing import Any

import peft
import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from refarch_interchange.mapping.mappings import HANDLED, find, mappings
from refarch_interchange.mapping.settings import GENERAL
from refarch_interchange.mapping.table import PEFT
from refarch_interchange.mapping.unmapped import UNMAPPED

from refarch import InterchangeSpec, Registry, TensorRule, default_registry
from refarch.errors import CompositionError, PluginError
from refarch.plugins import Found, Settings, resolve

from .cases import CASES

KINDS = {mapping.kind for mapping in PEFT}


def test_every_type_of_peft_is_mapped_or_has_its_reason() -> None:
    types_of_peft = {item.value for item in peft.PeftType}
    assert types_of_peft - KINDS - UNMAPPED.keys() == set()
    assert KINDS & UNMAPPED.keys() == set()
    assert all(len(reason) > 20 for reason in UNMAPPED.values())


def test_every_mapping_goes_both_ways_in_the_round_trips() -> None:
    assert {mapping.kind for mapping in PEFT} == {case.kind for case in CASES.values()}
    assert {mapping.technique for mapping in PEFT} == {case.technique for case in CASES.values()}
    assert len({mapping.name for mapping in PEFT}) == len(PEFT)


@pytest.mark.parametrize("mapping", PEFT, ids=lambda mapping: mapping.name)
def test_a_mapping_names_what_both_sides_have(mapping: InterchangeSpec) -> None:
    spec = default_registry().technique(mapping.technique)
    preset = {"preset": mapping.preset} if mapping.preset else {}
    options = spec.configure({**preset, **mapping.fixed}).options
    assert {*mapping.options, *mapping.derived, *mapping.patterns, *mapping.untold} <= options.keys()
    named = {*mapping.options.values(), *mapping.patterns.values(), *mapping.when, *mapping.silent, mapping.inputs}
    fields = {field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(mapping.kind)])}
    assert {name for name in named if name and not name.startswith("train.")} <= fields
    for path in (mapping.codec, mapping.join, mapping.rewrite, mapping.settings, *mapping.derived.values()):
        assert path is None or callable(resolve(path))
    assert InterchangeSpec.from_json(mapping.to_json()) == mapping


def _as_saved(config: Any) -> dict[str, Any]:
    """What peft writes into the file."""
    return json.loads(json.dumps(config.to_dict(), default=list))


@pytest.mark.parametrize("name", CASES)
def test_every_default_of_peft_is_understood(name: str) -> None:
    """A setting that peft has added, and that is not off, would be refused: then it has to be looked at."""
    case = CASES[name]
    config = case.config(next(family for family in case.families if family not in case.skip))
    assert find(_as_saved(config), default_registry()).kind == case.kind


@pytest.mark.parametrize(("kind", "reason"), UNMAPPED.items())
def test_what_is_not_mapped_is_refused_with_the_reason(kind: str, reason: str) -> None:
    with pytest.raises(CompositionError, match=kind) as raised:
        find({"peft_type": kind}, default_registry())
    assert reason in str(raised.value)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"use_qalora": True}, "use_qalora"),
    ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    ({"target_parameters": ["experts"]}, "target_parameters"),
    ({"lora_bias": True}, "lora_bias"),
    ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    ({"a_setting_of_next_year": 3}, "a_setting_of_next_year"),
    ({"init_lora_weights": "corda"}, "init_lora_weights"),
    ({"init_lora_weights": "loftq"}, "init_lora_weights"),
    ({"use_dora": True, "init_lora_weights": "pissa"}, "init_lora_weights"),
]


@pytest.mark.parametrize(("changes", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_a_setting_without_counterpart_is_refused_by_its_name(changes: dict[str, Any], named: str) -> None:
    config = _as_saved(peft.LoraConfig(r=4, target_modules=["q_proj"]))
    assert find(config, default_registry()).name == "peft-lora"
    with pytest.raises(CompositionError, match=named):
        find({**config, **changes}, default_registry())


def test_an_unknown_type_is_refused_with_the_nearest() -> None:
    with pytest.raises(CompositionError, match="'LORAX'") as raised:
        find({"peft_type": "LORAX"}, default_registry())
    assert "'LORA'" in str(raised.value)


def test_settings_of_every_configuration_are_handled() -> None:
    common = {field.name for field in dataclasses.fields(peft.LoraConfig)} & {
        field.name for field in dataclasses.fields(peft.OFTConfig)
    }
    known = {"init_weights", "r", *GENERAL, *HANDLED}
    assert common - known == set()


MINE = InterchangeSpec(
    name="peft-mine",
    summary="A technique of a plugin",
    format="peft",
    kind="MINE",
    technique="lora",
    options={"rank": "r"},
    tensors=(TensorRule(own="down", theirs="mine_A", rows=False), TensorRule(own="up", theirs="mine_B")),
)


def _registry(monkeypatch: pytest.MonkeyPatch, contribution: Any) -> Registry:
    """The installed plugins and one more, which brings a mapping with its technique."""
    module = types.ModuleType("a_plugin")
    spec = default_registry().technique("lora").model_copy(update={"name": "mine"})
    module.refarch_techniques = lambda: [spec]  # type: ignore[attr-defined]
    module.refarch_interchanges = lambda: [contribution]  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "a_plugin", module)
    more = Found("mine", "technique", "a_plugin", "a-plugin", "1", "")
    return Registry(Settings(), [*default_registry().found, more])


def test_a_plugin_brings_its_own_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = _registry(monkeypatch, MINE)
    assert registry.interchanges("peft") == [MINE] and registry.interchanges("other") == []
    assert mappings(registry)[-1] == MINE
    assert find({"peft_type": "MINE", "r": 3}, registry) == MINE


def test_a_contribution_of_something_else_names_its_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PluginError, match="a_plugin"):
        _registry(monkeypatch, {"kind": "MINE"}).interchanges("peft")


def test_the_page_names_every_pair() -> None:
    page = (Path(__file__).resolve().parents[4] / "docs" / "interchange.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    for mapping in PEFT:
        both = [row for row in rows if f"`{mapping.kind}`" in row and f"`{mapping.technique}`" in row]
        assert both, f"docs/interchange.md has no row of {mapping.kind} and {mapping.technique}"
