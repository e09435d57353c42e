"""The backbone checks catch wrong tables."""

from __future__ import annotations

from typing import Any

import pytest

from refarch.architecture import FamilySpec
from refarch.plugins import default_registry
from refarch.testing.case import NotApplicable
from refarch.testing.checks.backbone import BACKBONE_CHECKS
from refarch.testing.checks.table import Backbone
from refarch.testing.models import Tiny


def family(name: str) -> FamilySpec:
    found = default_registry().backbone(name)
    assert isinstance(found, FamilySpec)
    return found


def changed(
    name: str, slots: dict[str, str] | None = None, unreachable: dict[str, str] | None = None, **fields: Any
) -> FamilySpec:
    """A family with some entries of its first stack replaced (an empty one is left out), or other fields."""
    spec = family(name)
    first = spec.stacks[0]
    table = {key: value for key, value in {**first.slots, **(slots or {})}.items() if value}
    reasons = first.unreachable if unreachable is None else unreachable
    stacks = (first.model_copy(update={"slots": table, "unreachable": reasons}), *spec.stacks[1:])
    return spec.model_copy(update={"stacks": stacks, **fields})


def failing(spec: FamilySpec) -> dict[str, str]:
    case, found = Backbone(Tiny(spec, spec.tiny.auto_classes[0])), {}
    for check in BACKBONE_CHECKS.values():
        if check.name.startswith("probe_"):
            continue
        try:
            check.function(case)
        except NotApplicable:
            continue
        except Exception as error:
            found[check.name] = str(error)
    return found


WRONG = [
    (changed("bert", {"ffn.gate": "gate.dense"}), "every_entry_exists", "ffn.gate"),
    (changed("bert", {"ffn.up": ""}), "linear_layers_are_named", "intermediate.dense"),
    (changed("bert", {"ffn.up": "output.dense"}), "linear_layers_are_named", "intermediate.dense"),
    (changed("bert", {"attention.key_value": "attention"}), "key_value_is_where_attention_happens", "does not call"),
    (
        changed("bert", {"attention.query": "attention.self.key", "attention.key": "attention.self.query"}),
        "projections_play_their_own_part",
        "attention.query",
    ),
    (
        changed("gpt2", {"attention.query": "attn.c_attn[2/3]", "attention.value": "attn.c_attn[0/3]"}),
        "projections_play_their_own_part",
        "right part of a fused one",
    ),
    (changed("gpt2", {"attention.value": "attn.c_attn[1/3]"}), "linear_layers_are_named", "a part of attn.c_attn"),
    (changed("gpt2", {"attention.key": "attn.c_attn"}), "key_value_is_where_attention_happens", "keys are 32 wide"),
    (changed("bert", {"attention.norm": ""}), "norms_are_named", "attention.output.LayerNorm"),
    (changed("llama", {"ffn.norm": ""}), "norms_are_named", "post_attention_layernorm"),
    (
        changed("gpt-neox", {"attention.query": "attention.query_key_value[0/3]"}),
        "projections_play_their_own_part",
        "attention.query",
    ),
    (changed("mixtral", unreachable={}), "linear_layers_are_named", "the stacked weights of mlp.experts"),
    (changed("t5", embedding="shared"), "widths_agree", "takes no part in a forward pass"),
    (changed("bert", embedding="pooler.dense"), "inputs_take_embeddings", ""),
    (changed("bert", head="nothing"), "every_entry_exists", "head"),
    (changed("distilbert", head="classifier"), "head_is_complete", "pre_classifier"),
    (changed("bert", model_types=("bert", "bret")), "model_types_are_known", "bret"),
]


@pytest.mark.parametrize(("spec", "check", "message"), WRONG, ids=[f"{w[1]}-{w[2][:20]}" for w in WRONG])
def test_the_kit_catches(spec: FamilySpec, check: str, message: str) -> None:
    found = failing(spec)
    assert check in found, f"not caught; what failed: {found}"
    assert message in found[check]


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_nothing_wrong_passes(name: str) -> None:
    assert failing(family(name)) == {}
