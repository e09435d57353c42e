"""LoRA's variants: the conformance kit for each preset, peft with equal weights, what they start from and freeze."""

import copy
from typing import Any

import pytest
import torch
from refarch_lora.function import FromWeight, LoRA
from transformers import BertConfig, BertModel

import refarch
from refarch.engine import FusedLowRank
from refarch.errors import SpecError
from refarch.testing import TechniqueConformance, all_tiny, outputs, randomise

peft = pytest.importorskip("peft")

# family -> refarch slots to the ends of the paths that peft wraps
TARGETS: dict[str, dict[str, str]] = {
    "bert": {"attention.query": "self.query", "attention.value": "self.value", "ffn.up": "intermediate.dense"},
    "gpt2": {"attention.output": "attn.c_proj", "ffn.up": "mlp.c_fc"},
    "llama": {"attention.query": "q_proj", "attention.value": "v_proj", "ffn.gate": "gate_proj"},
    "t5": {"attention.query": "SelfAttention.q", "attention.value": "SelfAttention.v", "ffn.up": "DenseReluDense.wi"},
}


class TestPissa(TechniqueConformance):
    technique = "lora"
    options = {"preset": "pissa", "rank": 3}
    families = ("bert", "gpt2", "llama", "t5")


class TestOlora(TechniqueConformance):
    technique = "lora"
    options = {"preset": "olora", "rank": 3, "dropout": 0.1, "slots": ["ffn.up", "ffn.down"]}
    families = ("bert", "gpt2", "t5")


class TestLoraFA(TechniqueConformance):
    technique = "lora"
    options = {"preset": "lora-fa"}
    families = ("bert", "gpt2", "llama", "t5")


class TestLoraPlus(TechniqueConformance):
    technique = "lora"
    options = {"preset": "lora+"}
    families = ("bert", "gpt2", "t5")


@pytest.mark.parametrize(
    ("preset", "name"),
    # peft's olora does not transpose GPT-2's Conv1D
    [(preset, name) for preset in ("pissa", "olora") for name in TARGETS if (preset, name) != ("olora", "gpt2")],
)
def test_started_from_the_weight_it_is_what_peft_computes(preset: str, name: str) -> None:
    """Peft writes the residual into the base; here the base stays, and the sum is the same."""
    (case, *_) = all_tiny([name])
    model = case.model()
    batch = case.batch(model)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    pattern = r".*\.(" + "|".join(end.replace(".", r"\.") for end in TARGETS[name].values()) + ")"
    config = peft.LoraConfig(
        r=4, lora_alpha=6, init_lora_weights=preset, target_modules=pattern, fan_in_fan_out=name == "gpt2"
    )
    wrapped = peft.get_peft_model(copy.deepcopy(model), config).eval()
    adaptation = refarch.attach(model, "lora", preset=preset, rank=4, alpha=6, slots=list(TARGETS[name]))
    layers = {path: m for path, m in wrapped.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    assert len(layers) == len(adaptation.insertions)
    pairs = {}
    randomise(adaptation)
    for address, function in adaptation.functions():
        layer = next(m for path, m in layers.items() if path.endswith(adaptation.slot_map[address]))
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert isinstance(function, FromWeight)
        torch.testing.assert_close(function.up_0 @ function.down_0, up @ down, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            down.copy_(function.down)
            up.copy_(function.up)
        pairs |= {f"{address}.down": down, f"{address}.up": up}
    assert all(torch.equal(before[key], model.state_dict()[key]) for key in before)
    torch.testing.assert_close(outputs(model, batch), outputs(wrapped, batch), rtol=1e-5, atol=1e-5)
    case.loss(model, batch).backward()
    case.loss(wrapped, batch).backward()
    for key, parameter in adaptation.named_parameters():
        if key in pairs:
            torch.testing.assert_close(parameter.grad, pairs[key].grad, rtol=1e-5, atol=1e-5)
            assert parameter.grad is not None and parameter.grad.any()
        else:
            assert key.endswith(("_0",)) and parameter.grad is None
    adaptation.merge()
    adaptation.commit()
    merged = wrapped.merge_and_unload().state_dict()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, merged[key], rtol=1e-5, atol=1e-5)


def test_pissa_takes_the_largest_part_of_the_weight() -> None:
    """Equations 2 to 4: what remains of the weight has the smaller singular values alone."""
    (case, *_) = all_tiny(["gpt2"])
    model = case.model()
    adaptation = refarch.attach(model, "lora", preset="pissa", rank=4, alpha=6, slots=["attention.value"], layers=[1])
    ((_, function),) = adaptation.functions()
    weight = model.transformer.h[1].attn.c_attn.weight.detach().T[64:]
    residual = weight - function.scale * (function.up_0 @ function.down_0)
    values = torch.linalg.svdvals(weight)
    torch.testing.assert_close(torch.linalg.svdvals(residual)[:28], values[4:], rtol=1e-4, atol=1e-5)


def test_while_training_dropout_is_on_what_trains_alone() -> None:
    (case, *_) = all_tiny(["bert"])
    adaptation = refarch.attach(case.model(), "lora", preset="pissa", rank=2, dropout=0.5, slots=["ffn.up"], layers=[0])
    ((_, function),) = adaptation.functions()
    function.train()
    x = torch.randn(3, 32)
    torch.manual_seed(0)
    found = function(x)
    torch.manual_seed(0)
    dropped = torch.nn.functional.dropout(x, 0.5)
    wanted = dropped @ function.down.T @ function.up.T - x @ function.down_0.T @ function.up_0.T
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "pissa"}, "goes with the preset of its name"),
        ({"preset": "pissa", "init": "gaussian"}, "here it is one of"),
        ({"preset": "pissa", "alpha": 0}, "alpha must be positive"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    (case, *_) = all_tiny(["bert"])
    with pytest.raises(SpecError, match=message):
        refarch.attach(case.model(), "lora", **options)


def test_a_frozen_a_is_not_trained_and_costs_no_activations() -> None:
    """LoRA-FA's point: of what the layer reads nothing is kept for the backward pass."""
    x = torch.randn(2, 50, 32)
    kept: dict[str, int] = {}
    for preset in ("rslora", "lora-fa"):
        (case, *_) = all_tiny(["bert"])
        model = case.model()
        adaptation = refarch.attach(model, "lora", preset=preset, rank=2, slots=["ffn.up"], layers=[0])
        ((_, function),) = adaptation.functions()
        assert function.down.requires_grad == (preset == "rslora")
        sizes: list[int] = []

        def pack(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = model.bert.encoder.layer[0].intermediate.dense(x)
        assert y.grad_fn is not None and "FusedLowRank" in str(y.grad_fn)
        y.sum().backward()
        assert function.up.grad is not None
        kept[preset] = sum(size == x.numel() for size in sizes)
    assert kept == {"rslora": 1, "lora-fa": 0}


@pytest.mark.parametrize("preset", ["rslora", "lora-fa", "lora+"])
def test_the_engine_still_adds_it_in_one_node(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = FusedLowRank.apply
    monkeypatch.setattr(FusedLowRank, "apply", lambda *args: calls.append(1) or original(*args))
    (case, *_) = all_tiny(["bert"])
    model = case.model()
    adaptation = refarch.attach(model, "lora", preset=preset)
    case.loss(model, case.batch(model)).backward()
    assert len(calls) == len(adaptation.insertions) == 4


def test_lora_fa_equals_lora_with_a_left_alone() -> None:
    (case, *_) = all_tiny(["llama"])
    gradients = []
    for preset in ("lora-fa", "lora+"):
        model = case.model()
        adaptation = refarch.attach(model, "lora", preset=preset)
        randomise_up(adaptation)
        case.loss(model, case.batch(model)).backward()
        gradients.append([function.up.grad for _, function in adaptation.functions() if isinstance(function, LoRA)])
    for own, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(own, plain)


@torch.no_grad()
def randomise_up(adaptation: refarch.Adaptation) -> None:
    generator = torch.Generator().manual_seed(3)
    for _, function in adaptation.functions():
        assert isinstance(function, LoRA)
        function.up.copy_(torch.randn(function.up.shape, generator=generator) * 0.2)


def test_lora_plus_has_peft_s_learning_rates() -> None:
    from peft.optimizers import create_loraplus_optimizer

    (case, *_) = all_tiny(["bert"])
    model = case.model()
    wrapped = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=8, target_modules=["query", "value"]))
    theirs = create_loraplus_optimizer(wrapped, torch.optim.AdamW, lr=0.1, loraplus_lr_ratio=16.0)
    adaptation = refarch.attach(model, "lora", preset="lora+")
    own = torch.optim.AdamW(adaptation.parameter_groups(0.1))

    def rates(optimizer: torch.optim.Optimizer) -> dict[float, int]:
        found: dict[float, int] = {}
        for group in optimizer.param_groups:
            count = sum(parameter.numel() for parameter in group["params"])
            if count:
                found[round(group["lr"], 9)] = found.get(round(group["lr"], 9), 0) + count
        return found

    assert rates(own) == rates(theirs) == {0.1: 4 * 8 * 32, 1.6: 4 * 8 * 32}


@pytest.mark.parametrize(("preset", "trained", "all_"), [("lora-fa", 12_288, 24_576), ("pissa", 24_576, 49_152)])
def test_bert_base(preset: str, trained: int, all_: int) -> None:
    config = BertConfig(num_hidden_layers=1)
    with torch.device("meta"):
        model = BertModel(config)
    adaptation = refarch.attach(model, "lora", preset=preset, rank=8)
    assert (adaptation.count(), adaptation.count(trainable=False)) == (trained, all_)
