"""The encoder families against independent implementations: model types, LoRA in peft, prompts written out plainly."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import refarch
from refarch.plugins import default_registry
from refarch.testing import Tiny, all_tiny

FAMILIES = ("albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "roberta")
TYPES = [(name, kind) for name in FAMILIES for kind in default_registry().backbone(name).model_types]
TINY = {tiny.label: tiny for tiny in all_tiny(FAMILIES)}
UNFUSED = [tiny for label, tiny in TINY.items() if "modernbert" not in label]
LENGTHS = (5, 7)


def values_of(tiny: Tiny, model: Any) -> dict[str, Tensor]:
    """A padded batch with labels."""
    values = tiny.batch(model, LENGTHS)
    generator = torch.Generator().manual_seed(2)
    many = tiny.auto_class == "AutoModelForMaskedLM"
    shape, classes = (tuple(values["input_ids"].shape), 99) if many else ((2,), 2)
    return {**values, "labels": torch.randint(0, classes, shape, generator=generator)}


def real(tiny: Tiny, logits: Tensor) -> Tensor:
    """What belongs to real tokens."""
    return torch.cat([tiny.real(logits, LENGTHS, row).flatten() for row in range(2)])


@pytest.mark.parametrize(("name", "kind"), TYPES, ids=[kind for _, kind in TYPES])
def test_a_saved_configuration_finds_its_family(name: str, kind: str, tmp_path: Path) -> None:
    family = default_registry().backbone(name)
    for auto_class in family.tiny.auto_classes:
        config = transformers.AutoConfig.for_model(kind, **family.tiny.config)
        model = getattr(transformers, auto_class).from_config(config)
        model.config.save_pretrained(tmp_path)
        found = transformers.AutoConfig.from_pretrained(tmp_path)
        assert found.model_type == model.config.model_type == kind
        assert default_registry().family_for(found.model_type).name == name
        assert refarch.attach(model, "lora").count() > 0  # as every model of the type is served


@pytest.mark.parametrize("tiny", UNFUSED, ids=lambda tiny: tiny.label)
def test_lora_equals_peft(tiny: Tiny) -> None:
    peft = pytest.importorskip("peft")
    model = tiny.model()
    values = values_of(tiny, model)
    plain = copy.deepcopy(model)
    adaptation = refarch.attach(model, "lora", rank=3, slots=("attention.query", "attention.value", "ffn.down"))
    paths = dict(adaptation.slot_map)
    prefix = f"{model.base_model_prefix}."
    config = peft.LoraConfig(r=3, lora_alpha=16, target_modules=[prefix + path for path in paths.values()])
    wrapped = peft.get_peft_model(plain, config).eval()
    layers = {n: m for n, m in wrapped.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    assert len(layers) == len(paths)
    pairs = {}
    with torch.no_grad():
        for address, function in adaptation.functions():
            layer = layers[f"base_model.model.{prefix}{paths[address]}"]
            for side, theirs in (("down", layer.lora_A), ("up", layer.lora_B)):
                getattr(function, side).normal_(std=0.2)
                theirs["default"].weight.copy_(getattr(function, side))
                pairs[f"{address}.{side}"] = theirs["default"].weight
    found, wanted = model(**values), wrapped(**values)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-5, atol=1e-5)
    found.loss.backward()
    wanted.loss.backward()
    scale = max(float(parameter.grad.abs().max()) for parameter in pairs.values())
    for key, parameter in adaptation.named_parameters():
        torch.testing.assert_close(parameter.grad, pairs[key].grad, rtol=1e-4, atol=1e-5 * max(scale, 1.0))
        assert parameter.grad is not None and parameter.grad.abs().max() > 0
    adaptation.merge()
    merged = wrapped.merge_and_unload().state_dict()
    adaptation.commit()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, merged[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tiny", TINY.values(), ids=TINY)
def test_a_prompt_is_a_longer_input_whose_states_are_left_out(tiny: Tiny) -> None:
    """Base states for [tokens; embedded text], the text's part, through the model's own pooler and head."""
    model = tiny.model()
    plain, values, length = copy.deepcopy(model), values_of(tiny, model), 3
    adaptation = refarch.attach(model, "prompt-tuning", length=length)
    (tokens,) = adaptation.parameters()
    found = model(**values, output_hidden_states=True)
    embedded = plain.get_input_embeddings()(values["input_ids"])
    joined = torch.cat([tokens.expand(2, -1, -1), embedded], dim=1)
    mask = torch.cat([torch.ones(2, length, dtype=torch.long), values["attention_mask"]], dim=1)
    states = plain.base_model(inputs_embeds=joined, attention_mask=mask).last_hidden_state[:, length:]
    assert {state.shape[1] for state in found.hidden_states} == {max(LENGTHS)}
    torch.testing.assert_close(real(tiny, found.hidden_states[-1]), real(tiny, states), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(real(tiny, found.logits), real(tiny, _head(plain, states)), rtol=1e-5, atol=1e-5)
    found.loss.backward()
    assert tokens.grad is not None and tokens.grad.abs().max() > 0
    short = model(**{k: v for k, v in values.items() if k != "labels"}, output_hidden_states=True, return_dict=False)
    torch.testing.assert_close(short[0], found.logits)
    assert {state.shape[1] for state in short[1]} == {max(LENGTHS)}


def _head(model: Any, states: Tensor) -> Tensor:
    """What the model makes of given last hidden states: its forward pass with the base's answer replaced.

    A pooler that the base has is applied here as the family's paper says: tanh of a linear map of the first state.
    """
    pooler, pooled = getattr(model.base_model, "pooler", None), None
    if pooler is not None:
        pooled = torch.tanh((pooler if isinstance(pooler, torch.nn.Linear) else pooler.dense)(states[:, 0]))
    output = transformers.modeling_outputs.BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)
    handle = model.base_model.register_forward_hook(lambda *_: output)
    logits = model(input_ids=torch.full(states.shape[:2], 3)).logits
    handle.remove()
    return logits
