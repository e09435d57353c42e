"""LoRA with equal weights gives peft's logits, gradients and merged weights."""

import copy
from typing import Any

import engine_models as em
import pytest
import torch

import refarch

peft = pytest.importorskip("peft")

# family -> refarch slots to the ends of the paths that peft wraps
TARGETS: dict[str, dict[str, str]] = {
    "bert": {
        "attention.query": "attention.self.query",
        "attention.value": "attention.self.value",
        "ffn.down": "output.dense",
    },
    "gpt2": {"attention.output": "attn.c_proj", "ffn.up": "mlp.c_fc", "ffn.down": "mlp.c_proj"},
    "llama": {
        "attention.query": "q_proj",
        "attention.key": "k_proj",
        "attention.value": "v_proj",
        "ffn.gate": "gate_proj",
    },
    "t5": {"attention.query": "SelfAttention.q", "attention.value": "SelfAttention.v", "ffn.up": "DenseReluDense.wi"},
}


def _peft(model: Any, targets: list[str], rank: int, alpha: float, stabilised: bool) -> Any:
    pattern = r".*\.(" + "|".join(target.replace(".", r"\.") for target in targets) + r")"
    if any(target == "output.dense" for target in targets):
        pattern = r".*layer\.\d+\.(" + "|".join(target.replace(".", r"\.") for target in targets) + r")"
    fused = any("c_" in target for target in targets)
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, use_rslora=stabilised, target_modules=pattern, fan_in_fan_out=fused
    )
    return peft.get_peft_model(model, config)


def _copy_weights(adaptation: refarch.Adaptation, wrapped: Any) -> dict[str, Any]:
    """Random values for ours, the same for peft's; our parameter's name to peft's parameter."""
    layers = {path: m for path, m in wrapped.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    assert len(layers) == len(adaptation.insertions)
    pairs = {}
    with torch.no_grad():
        for address, function in adaptation.functions():
            path = adaptation.slot_map[address]
            layer = next(layer for name, layer in layers.items() if name.endswith(path))
            for own, theirs in ((function.down, layer.lora_A), (function.up, layer.lora_B)):
                own.normal_(std=0.2)
                theirs["default"].weight.copy_(own)
            pairs[f"{address}.down"] = layer.lora_A["default"].weight
            pairs[f"{address}.up"] = layer.lora_B["default"].weight
    return pairs


@pytest.mark.parametrize("name", em.FAMILIES)
@pytest.mark.parametrize("stabilised", [False, True])
def test_logits_gradients_and_merged_weights(stabilised: bool, name: str) -> None:
    model, values = em.tiny(name), em.batch(name)
    wrapped = _peft(copy.deepcopy(model), list(TARGETS[name].values()), 5, 12, stabilised).eval()
    adaptation = refarch.attach(model, "lora", rank=5, alpha=12, rank_stabilised=stabilised, slots=tuple(TARGETS[name]))
    pairs = _copy_weights(adaptation, wrapped)
    found, wanted = model(**values), wrapped(**values)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-5, atol=1e-5)
    found.loss.backward()
    wanted.loss.backward()
    for key, parameter in adaptation.named_parameters():
        torch.testing.assert_close(parameter.grad, pairs[key].grad, rtol=1e-5, atol=1e-5)
        assert parameter.grad is not None and parameter.grad.abs().max() > 0
    adaptation.merge()
    adaptation.commit()
    merged = wrapped.merge_and_unload().state_dict()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, merged[key], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model(**values).logits, wanted.logits, rtol=1e-5, atol=1e-5)


def test_dropout_is_drawn_and_scaled_as_usual() -> None:
    """While training, the update's mean over many draws is the update without dropout; evaluating, it is exact."""
    model, values = em.tiny("llama"), em.batch("llama")
    adaptation = refarch.attach(model, "lora", rank=4, dropout=0.3, layers=[1], slots=("attention.output",))
    ((_, function),) = adaptation.functions()
    with torch.no_grad():
        function.up.normal_()
    exact = model(**values).logits
    model.train()
    x = torch.randn(7, 32)
    mean = torch.stack([function(x) for _ in range(4000)]).mean(0)
    function.eval()
    torch.testing.assert_close(mean, function(x), rtol=0.1, atol=0.15)
    model.train()
    first = model(**values).logits
    assert not torch.allclose(first, model(**values).logits)
    model.eval()
    assert torch.equal(model(**values).logits, exact)


def test_the_seed_alone_decides_the_initial_values() -> None:
    values = []
    for seed, disturb in ((0, False), (0, True), (1, False)):
        model = em.tiny("bert")
        if disturb:
            torch.rand(5)
        state = torch.get_rng_state()
        adaptation = refarch.attach(model, "lora", seed=seed)
        assert torch.equal(state, torch.get_rng_state())
        values.append(torch.cat([p.flatten() for p in adaptation.parameters()]))
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
