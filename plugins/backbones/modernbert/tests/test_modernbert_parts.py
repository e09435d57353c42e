"""Norms, fused parts, and a prefix under local attention."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, ModernBertConfig

import refarch
from refarch.errors import SlotError
from refarch.testing import all_tiny

CLASSIFIER = all_tiny(["modernbert"])[0]
IDS = torch.arange(5, 14)[None]


def test_the_norms_are_those_that_exist() -> None:
    """The first layer has an Identity for its attention norm, so the embedding's and all others are selected."""
    model = CLASSIFIER.model()
    adaptation = refarch.attach(model, "ln-tuning")
    base = model.model
    norms = {f"base:model.{path}.weight" for path, m in base.named_modules() if isinstance(m, torch.nn.LayerNorm)}
    assert {name for name, _ in adaptation.named_parameters()} == norms
    assert len(norms) == 1 + 1 + 2 + 1  # of the embedding, before attention, before feed-forward, final


def test_asking_for_the_norm_of_the_first_layer_alone_is_an_error() -> None:
    with pytest.raises(SlotError, match=r"none of the slots attention\.norm"):
        refarch.attach(CLASSIFIER.model(), "adapter", slots=["attention.norm"], layers=[0])


@torch.no_grad()
def test_the_gate_is_what_the_activation_is_applied_to() -> None:
    model, seen = CLASSIFIER.model(), {}
    mlp = model.model.layers[1].mlp
    mlp.act.register_forward_pre_hook(lambda _, args: seen.update(activated=args[0]))
    mlp.Wo.register_forward_pre_hook(lambda _, args: seen.update(product=args[0]))
    model(input_ids=IDS)
    before = dict(seen)
    for slot, activated in (("ffn.gate", True), ("ffn.up", False)):
        adaptation = refarch.attach(model, "lora", slots=[slot], layers=[1], rank=2)
        for parameter in adaptation.parameters():
            parameter.normal_()
        model(input_ids=IDS)
        assert torch.equal(seen["activated"], before["activated"]) != activated
        assert not torch.allclose(seen["product"], before["product"], atol=1e-3)
        adaptation.detach()


@torch.no_grad()
def test_every_token_of_a_local_layer_attends_to_the_prefix_and_to_its_window_only() -> None:
    """The output under a window of 2 to each side, against softmax(q [P_k; K_window]) [P_v; V] written out."""
    model = CLASSIFIER.model()
    layer, half = model.model.layers[1].attn, model.config.sliding_window
    assert (layer.sliding_window, half) == (half + 1, 2)
    seen = {}
    layer.Wo.register_forward_pre_hook(lambda _, args: seen.update(out=args[0]))
    adaptation = refarch.attach(model, "prefix-tuning", length=2, hidden=4, layers=[1])
    ((_, function),) = adaptation.functions()
    for parameter in adaptation.parameters():
        parameter.normal_()
    model.model.rotary_emb.register_forward_hook(lambda _, args, output: seen.update({args[2]: output}))
    layer.Wqkv.register_forward_hook(lambda _, args, output: seen.update(qkv=output))
    model(input_ids=IDS)
    tokens, dim = IDS.shape[1], 8
    q, k, v = seen["qkv"].view(tokens, 3, 4, dim).permute(1, 2, 0, 3)  # heads t dim
    keys, values = (part.view(2, 4, dim).transpose(0, 1) for part in function())  # heads l dim
    position = torch.arange(tokens)
    near = (position[:, None] - position[None]).abs() <= half
    allowed = torch.cat([torch.ones(tokens, 2, dtype=torch.bool), near], dim=1)
    cos, sin = seen["sliding_attention"]
    q, k = (x * cos[0] + torch.cat([-x[..., 4:], x[..., :4]], dim=-1) * sin[0] for x in (q, k))
    scores = q @ torch.cat([keys, k], dim=1).transpose(1, 2) / dim**0.5
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1)
    wanted = weights @ torch.cat([values, v], dim=1)  # heads t dim
    torch.testing.assert_close(seen["out"][0], wanted.transpose(0, 1).reshape(tokens, -1), rtol=1e-5, atol=1e-5)


def test_both_poolings_leave_the_prompt_out() -> None:
    for pooling in ("cls", "mean"):
        config = ModernBertConfig(**{**CLASSIFIER.family.tiny.config, "classifier_pooling": pooling})
        model = AutoModelForSequenceClassification.from_config(config).eval()
        refarch.attach(model, "prompt-tuning", length=3)
        states = model.model(input_ids=IDS).last_hidden_state
        pooled = states[:, 0] if pooling == "cls" else states.mean(dim=1)
        torch.testing.assert_close(model(input_ids=IDS).logits, model.classifier(model.head(pooled)))


def test_bitfit_needs_a_backbone_with_biases() -> None:
    """The published models have none but in the head, and a head's bias alone is no BitFit."""
    model = CLASSIFIER.model()
    with pytest.raises(SlotError, match=r"selects bias, but in this backbone .* only the head has classifier\.bias"):
        refarch.attach(model, "bitfit")
    assert not refarch.adaptations(model)
    config = ModernBertConfig(**CLASSIFIER.family.tiny.config, mlp_bias=True)
    biased = AutoModelForSequenceClassification.from_config(config)
    of_layers, of_head = 2 * (2 * 48 + 32), 2  # Wi and Wo of two layers; two labels
    assert refarch.attach(biased, "bitfit").count() == of_layers + of_head
