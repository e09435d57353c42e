"""Tables proposed from structure: equal to the hand-written ones, and sound by the conformance kit."""

import pytest
import torch
from refarch_inspect.classify import which_part
from refarch_inspect.propose import propose, uncovered
from refarch_inspect.source import build, with_head
from refarch_inspect.tiny import tiny_config
from refarch_inspect.trace import is_norm
from transformers import AutoConfig

from refarch import FamilySpec, default_registry
from refarch.architecture import parse_entry
from refarch.engine import Resolver
from refarch.testing import run_backbone_checks


def resolved(family: FamilySpec, model) -> dict[str, list[tuple[str, object]]]:
    """Slot to the modules and parts that a table finds on a model."""
    sites = Resolver(model, family).available()
    return {name: [(site.end.path, site.end.part) for site in found] for name, found in sites.items()}


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_the_proposal_finds_what_the_installed_table_finds(name):
    installed = default_registry().backbone(name)
    proposal = propose(AutoConfig.for_model(installed.tiny.model_type, **installed.tiny.config))
    model = build(tiny_config(installed.tiny.model_type, dict(installed.tiny.config)), installed.tiny.auto_classes[0])
    assert resolved(proposal.family, model) == resolved(installed, model)
    assert [place.path for place in Resolver(model, proposal.family).head()] == [
        place.path for place in Resolver(model, installed).head()
    ]
    assert [(s.name, s.module, s.layers) for s in proposal.family.stacks] == [
        (s.name, s.module, s.layers) for s in installed.stacks
    ]
    assert proposal.unresolved == []
    assert {finding.confidence for finding in proposal.findings} == {"high"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t5", "gptj", "starcoder2", "olmo2", "qwen3_moe"])
def test_the_proposal_passes_the_kit(kind):
    """Of architectures without a table; what equals a table (above) passes as that does."""
    config = AutoConfig.for_model(kind)
    family = propose(config).family
    left = {item.partition(" ")[0] for items in uncovered(with_head(config), family).values() for item in items}
    assert left == ({f"mlp.experts.{name}_proj" for name in ("gate_up", "down")} if kind == "qwen3_moe" else set())
    report = run_backbone_checks(family, uncovered=tuple(left))
    assert [f"{item.check} on {item.model}: {item.message}" for item in report.failures()] == []
    assert sum(item.outcome == "passed" for item in report.results) >= 12


def _attention(proposal, *parts):
    return [proposal.family.stacks[0].slots[f"attention.{part}"] for part in parts]


def test_attention_that_is_written_out_is_told_apart_by_how_it_mixes_tokens():
    proposal = propose(AutoConfig.for_model("gpt_neo"))
    names = [f"attn.attention.{name}_proj" for name in ("q", "k", "v", "out")]
    assert _attention(proposal, "query", "key", "value", "output") == names
    assert {finding.slot for finding in proposal.unresolved} == {"attention.key_value"}
    assert "attention is written out" in proposal.family.stacks[0].unreachable["attention.key_value"]


def test_a_norm_that_feeds_both_sublayers_is_given_to_one_and_said():
    proposal = propose(AutoConfig.for_model("gptj"))
    assert _attention(proposal, "query", "key", "value", "output") == [f"attn.{n}_proj" for n in ("q", "k", "v", "out")]
    why = {finding.slot: finding.reason for finding in proposal.unresolved}
    assert "ln_1 feeds it too" in why["ffn.norm"]
    assert proposal.parallel == {"decoder"}


@pytest.mark.parametrize(("kind", "parallel"), [("gpt_neox", True), ("phi", True), ("gemma2", False), ("olmo2", False)])
def test_sublayers_run_side_by_side_where_one_does_not_feed_the_other(kind, parallel):
    """Also through a norm after attention (Gemma 2), before the residual is added."""
    assert propose(AutoConfig.for_model(kind)).parallel == ({"decoder"} if parallel else set())


def test_names_are_not_what_decides(monkeypatch):
    """A Llama whose projections are renamed to each other's names is still read by what feeds what."""
    from transformers.models.llama import modeling_llama

    class Renamed(modeling_llama.LlamaMLP):
        def __init__(self, config):
            super().__init__(config)
            self.gate_proj, self.down_proj = self.down_proj, self.gate_proj

        def forward(self, x):
            return self.gate_proj(self.act_fn(self.down_proj(x)) * self.up_proj(x))

    monkeypatch.setattr(modeling_llama, "LlamaMLP", Renamed)
    proposal = propose(AutoConfig.for_model("llama"))
    slots = proposal.family.stacks[0].slots
    assert (slots["ffn.gate"], slots["ffn.up"], slots["ffn.down"]) == ("mlp.down_proj", "mlp.up_proj", "mlp.gate_proj")
    sure = {finding.slot: finding.confidence for finding in proposal.findings}
    assert (sure["ffn.gate"], sure["ffn.up"], sure["ffn.down"]) == ("medium", "high", "medium")


def test_fused_parts_are_named_by_their_columns():
    config = AutoConfig.for_model("gpt2", n_head=4)
    columns = torch.arange(64)

    def name(mask):
        return which_part(mask, config)

    assert name(columns < 32) == "0/2"
    assert name(columns % 24 < 8) == ""  # 64 does not divide into heads of 24
    columns = torch.arange(96)
    assert name((columns >= 32) & (columns < 64)) == "1/3"
    assert name(columns % 24 < 8) == "0/3 per num_attention_heads"
    columns = torch.arange(64)
    assert name((columns >= 32) & (columns < 48)) == "2/4"
    assert name(columns == 3) == ""
    grouped = AutoConfig.for_model("llama", num_attention_heads=4, num_key_value_heads=2)
    shares = "num_attention_heads:num_key_value_heads:num_key_value_heads"
    assert [which_part((columns >= a) & (columns < b), grouped) for a, b in ((0, 32), (32, 48), (48, 64))] == [
        f"{number}/{shares}" for number in range(3)
    ]


@pytest.mark.parametrize(
    ("kind", "reached"), [("gpt_neox", "per"), ("phi3", "num_key_value_heads"), ("modernbert", "/")]
)
def test_other_fused_layouts(kind, reached):
    changes = {"num_key_value_heads": 8} if kind == "phi3" else {}
    proposal = propose(AutoConfig.for_model(kind, **changes))
    slots = proposal.family.stacks[0].slots
    entries = [slots[f"attention.{part}"] for part in ("query", "key", "value")]
    assert all(reached in entry for entry in entries)
    assert [parse_entry(entry).entries[0].part.number for entry in entries] == [0, 1, 2]


def test_layers_that_are_shared_and_nested():
    proposal = propose(AutoConfig.for_model("albert"))
    assert proposal.family.stacks[0].layers == "encoder.albert_layer_groups.{}.albert_layers.{}"
    assert any("more than once" in note for note in proposal.notes)


def test_stacked_experts_are_said_to_be_out_of_reach():
    config = AutoConfig.for_model("mixtral", num_hidden_layers=2, num_local_experts=2, hidden_size=64)
    proposal = propose(config)
    stack = proposal.family.stacks[0]
    assert "ffn.up" not in stack.slots
    assert "experts.gate_up_proj" in stack.unreachable["ffn.up"]
    assert (stack.slots["ffn"], stack.slots["ffn.norm"]) == ("mlp", "post_attention_layernorm")
    assert any("gate_up_proj" in path for path in uncovered(with_head(config), proposal.family)["decoder"])


def test_what_is_no_transformer_is_not_made_one():
    proposal = propose(AutoConfig.for_model("mamba"))
    assert not any(slot.startswith("attention.") for slot in proposal.family.stacks[0].slots)
    assert proposal.unresolved


def test_norms_are_recognised():
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    assert is_norm(T5LayerNorm(4))
    assert is_norm(torch.nn.LayerNorm(4))
    assert not is_norm(torch.nn.Linear(4, 4))
