"""Weight operators against plain computations and against peft, and what is said of them beforehand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

import refarch
from refarch.errors import CompositionError
from refarch.testing import Tiny, all_tiny, outputs


def made(family: str, auto: str = "AutoModelForCausalLM") -> Tiny:
    """A family's tiny model."""
    found = all_tiny([family])
    return next((one for one in found if one.auto_class == auto), found[0])


def attach(model: PreTrainedModel, technique: str, name: str, seed: int, **options: Any) -> refarch.Adaptation:
    """An adaptation whose values are nowhere neutral."""
    adaptation = refarch.attach(model, technique, name=name, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (p for p in adaptation.parameters() if p.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return adaptation


def deltas(adaptation: refarch.Adaptation) -> dict[str, Tensor]:
    """What a LoRA-like adaptation adds, by slot, from its own parameters."""
    return {
        item.site.address: (item.function.scale * item.function.up @ item.function.down).detach().clone()
        for item in adaptation.insertions
    }


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
@pytest.mark.parametrize("text", ["linear(a: 0.5, b: -1)", "average(a, b)", "concat(a: 2, b)", "linear(a: -1)"])
def test_low_rank_updates_of_other_ranks_sum_exactly(family: str, text: str) -> None:
    tiny = made(family)
    model = tiny.model()
    batch = tiny.batch(model)
    base = outputs(model, batch)
    attach(model, "lora", "a", 1, rank=2, slots=["attention.query", "ffn.down"])
    if "b" in text:
        attach(model, "lora", "b", 2, rank=3, slots=["attention.value", "ffn.down"], layers=[1])
    weights = {"linear(a: 0.5, b: -1)": "a: 0.5, b: -1", "average(a, b)": "a: 0.5, b: 0.5",
               "concat(a: 2, b)": "a: 2, b", "linear(a: -1)": "a: -1"}  # fmt: skip
    composition = refarch.compose(model, f"sum({weights[text]})")
    want = outputs(model, batch)
    composition.detach(parts=False)
    assert refarch.judge(text, model=model).verdict == "exact"
    result = refarch.combine(model, text, name="whole")
    assert [one.name for one in refarch.adaptations(model)] == ["whole"]
    torch.testing.assert_close(outputs(model, batch), want, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(want, base, atol=1e-3)
    result.merge()
    torch.testing.assert_close(outputs(model, batch), want, rtol=1e-4, atol=1e-5)
    result.unmerge()
    result.detach()
    assert torch.equal(outputs(model, batch), base)


@pytest.mark.parametrize("into", [None, "lora"])
def test_svd_is_the_nearest_update_of_its_rank(into: str | None) -> None:
    tiny = made("bert")
    model = tiny.model()
    batch = tiny.batch(model)
    slots = ["attention.query", "ffn.up"]
    a = attach(model, "lora", "a", 1, rank=4, slots=slots)
    b = attach(model, "loha", "b", 2, rank=2, slots=slots)
    loha = {i.site.address: (i.function.scale * i.function.delta()).detach() for i in b.insertions}
    target = {address: 0.5 * delta + 2 * loha[address] for address, delta in deltas(a).items()}
    missed = whole = 0.0
    nearest = {}
    for address, matrix in target.items():
        u, s, v = torch.linalg.svd(matrix.double())
        nearest[address] = ((u[:, :3] * s[:3]) @ v[:3]).float()
        missed += float((s[3:] ** 2).sum())
        whole += float((s**2).sum())
    judged = refarch.judge("svd(a: 0.5, b: 2, rank=3)", model=model, batch=batch)
    assert judged.verdict == "approximate" and judged.findings[0].error == pytest.approx(
        (missed / whole) ** 0.5, rel=1e-4
    )
    assert judged.findings[0].output_error is not None and 0 < judged.findings[0].output_error < 2
    assert [one.name for one in refarch.adaptations(model)] == ["a", "b"]
    result = refarch.combine(model, "svd(a: 0.5, b: 2, rank=3)", into=into)
    assert result.technique.name == (into or "low-rank")
    for address, matrix in deltas(result).items():
        torch.testing.assert_close(matrix, nearest[address], rtol=1e-3, atol=1e-5)


def with_peft(model: PreTrainedModel, parts: dict[str, refarch.Adaptation], rank: int) -> Any:
    """A peft model with the same adapters."""
    names = ["query", "value"]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names)
    wrapped = get_peft_model(model, config, adapter_name="a")
    wrapped.add_adapter("b", config)
    for name, part in parts.items():
        for item in part.insertions:
            layer = wrapped.base_model.model.get_submodule(f"bert.{item.site.end.path}")
            layer.lora_A[name].weight.data.copy_(item.function.down)
            layer.lora_B[name].weight.data.copy_(item.function.up)
    return wrapped


@pytest.mark.parametrize("text, options", [
    ("ties(a: 0.5, b: 0.5, density=0.3)", {"combination_type": "ties", "density": 0.3}),
    ("ties(a: 0.7, b: 0.7, density=0.3, rank=4)", {"combination_type": "ties_svd", "density": 0.3, "svd_rank": 4}),
    ("svd(a: 1, b: 0.5, rank=4)", {"combination_type": "svd", "svd_rank": 4}),
    ("concat(a: 1, b: 0.5)", {"combination_type": "cat"}),
])  # fmt: skip
def test_peft_computes_the_same(text: str, options: dict[str, Any]) -> None:
    tiny = made("bert", "AutoModelForSequenceClassification")
    model, other = tiny.model(), tiny.model()
    parts = {name: attach(model, "lora", name, seed, rank=4, alpha=8) for seed, name in enumerate("ab")}
    wrapped = with_peft(other, parts, 4)
    weights = [term.weight for term in refarch.architecture.expression.read_expression(text).terms]  # type: ignore[union-attr]
    wrapped.add_weighted_adapter(["a", "b"], weights, "whole", **options)
    result = refarch.combine(model, text)
    for item in result.insertions:
        layer = wrapped.base_model.model.get_submodule(f"bert.{item.site.end.path}")
        want = layer.get_delta_weight("whole")
        got = item.function.scale * item.function.up @ item.function.down
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)


def test_dare_drops_and_rescales_by_its_seed() -> None:
    model = made("bert").model()
    parts = {name: attach(model, "lora", name, seed, rank=2, alpha=2) for seed, name in enumerate("ab")}
    before = {name: deltas(part) for name, part in parts.items()}
    results = [refarch.combine(model, f"dare(a, b, density=0.5, seed={seed}, rank=32)", name=f"s{seed}{i}", keep=True)
               for i, seed in enumerate((1, 1, 2))]  # fmt: skip
    first, again, other = (deltas(result) for result in results)
    for address, delta in first.items():
        assert torch.equal(delta, again[address]) and not torch.allclose(delta, other[address], atol=1e-3)
        a, b = 2 * before["a"][address], 2 * before["b"][address]
        options = torch.stack([torch.zeros_like(a), a, b, a + b])
        assert float((options - delta).abs().min(dim=0).values.max()) < 1e-4
    assert not parts["a"].enabled


def test_factors_and_copies_are_combined_by_how_far_they_are_from_nothing() -> None:
    tiny = made("llama")
    model = tiny.model()
    for seed, name in enumerate("ab"):
        attach(model, "ia3", name, seed)
    values = {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in
              zip("ab", refarch.adaptations(model), strict=True)}  # fmt: skip
    judged = refarch.judge("linear(a: 0.5, b: -2)", model=model)
    assert judged.verdict == "exact" and judged.findings[0].error is not None
    result = refarch.combine(model, "linear(a: 0.5, b: -2)")
    for key, value in result.state_dict().items():
        torch.testing.assert_close(value, 1 + 0.5 * (values["a"][key] - 1) - 2 * (values["b"][key] - 1))
    result.detach()
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    copies = {}
    for seed, name in enumerate("ab"):
        part = attach(model, "ln-tuning", name, seed)
        copies[name] = {k.removeprefix("base:"): v.clone() for k, v in part.state_dict().items()}
    result = refarch.combine(model, "linear(a: -1, b: 0.5)")
    for key, value in result.state_dict().items():
        path = key.removeprefix("base:")
        want = base[path] - (copies["a"][path] - base[path]) + 0.5 * (copies["b"][path] - base[path])
        torch.testing.assert_close(value, want)
    result.detach()
    assert all(torch.equal(p, base[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("technique", ["prompt-tuning", "prefix-tuning", "p-tuning", "adaption-prompt"])
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_tokens_side_by_side_are_a_stack(family: str, technique: str, tmp_path: Any) -> None:
    tiny = made(family, "AutoModelForSeq2SeqLM" if family == "t5" else "AutoModelForCausalLM")
    model = tiny.model()
    batch = tiny.batch(model)
    attach(model, technique, "a", 1, length=2)
    attach(model, technique, "b", 2, length=3).save(tmp_path / "b")
    refarch.adaptations(model)[1].detach()
    parts = {"b": tmp_path / "b"}
    if technique == "adaption-prompt":  # gated: there is no such tokens side by side
        assert refarch.judge("concat(a, b)", parts, model=model).verdict == "impossible"
        with pytest.raises(CompositionError, match="nothing to put side by side"):
            refarch.combine(model, "concat(a, b)", parts)
        assert [one.name for one in refarch.adaptations(model)] == ["a"]
        return
    assert refarch.judge("concat(a, b)", parts, model=model).verdict == "exact"
    composition = refarch.compose(model, "stack(b, a)", parts)
    want = outputs(model, batch)
    composition.detach(parts=False)
    result = refarch.combine(model, "concat(a, b)", name="whole")
    torch.testing.assert_close(outputs(model, batch), want, rtol=1e-4, atol=1e-5)
    result.save(tmp_path / "whole")
    result.detach()
    refarch.load(model, tmp_path / "whole")
    torch.testing.assert_close(outputs(model, batch), want, rtol=1e-4, atol=1e-5)


MERGEABLE = ["lora", "ia3", "dora", "oft", "boft", "hra", "loha", "lokr", "vera", "fourierft", "adalora"]


@pytest.mark.parametrize("technique", MERGEABLE)
def test_any_update_of_weights_becomes_low_rank_with_its_error(technique: str, tmp_path: Any) -> None:
    tiny = made("llama")
    model = tiny.model()
    batch = tiny.batch(model)
    attach(model, technique, "part", 1, **({"coefficients": 20} if technique == "fourierft" else {}))
    want, weight = outputs(model, batch), {}
    part = refarch.adaptations(model)[0]
    plain = dict(tiny.model().named_parameters())
    part.merge()
    weight = {name: p.detach() - plain[name].detach() for name, p in model.named_parameters() if name in plain}
    part.unmerge()
    missed = sum(float((torch.linalg.svdvals(d.double())[2:] ** 2).sum()) for d in weight.values() if d.ndim == 2)
    whole = sum(float(d.double().square().sum()) for d in weight.values())
    judged = refarch.judge("svd(part, rank=2)", model=model, batch=batch)
    assert judged.findings[0].error == pytest.approx((missed / whole) ** 0.5, rel=1e-2, abs=1e-4)
    full = refarch.to_low_rank(part, 64, name="full")
    torch.testing.assert_close(outputs(model, batch), want, rtol=1e-3, atol=1e-4)
    full.save(tmp_path)
    full.detach()
    loaded = refarch.load(model, tmp_path)
    torch.testing.assert_close(outputs(model, batch), want, rtol=1e-3, atol=1e-4)
    assert loaded.merge_reasons() == []


IMPOSSIBLE = {
    "svd(a, b, rank=2)": "functional form: mlp",
    "linear(a: 0.5, b: 0.6)": "weights that do not sum to one",
    "linear(a: 0.5, c: 0.5)": "do not belong to one structure",
    "concat(a, b)": "nothing to put side by side",
    "svd(p, rank=2)": "tokens at the inputs",
    "svd(n, rank=2)": "integration form: selection",
}


@pytest.mark.parametrize("text", IMPOSSIBLE)
def test_what_cannot_be_combined_is_said(text: str) -> None:
    model = made("bert").model()
    attach(model, "adapter", "a", 1)
    attach(model, "adapter", "b", 2)
    attach(model, "adapter", "c", 3, bottleneck=3)
    attach(model, "prompt-tuning", "p", 4)
    attach(model, "bitfit", "n", 5)
    names = [one.name for one in refarch.adaptations(model)]
    judged = refarch.judge(text, model=model)
    assert judged.verdict == "impossible" and IMPOSSIBLE[text] in judged.findings[0].reason
    with pytest.raises(CompositionError, match=IMPOSSIBLE[text]):
        refarch.combine(model, text)
    assert [one.name for one in refarch.adaptations(model)] == names


def test_adapters_average_by_their_parameters() -> None:
    model = made("bert").model()
    values = []
    for seed, name in enumerate("abc"):
        values.append({k: v.clone() for k, v in attach(model, "adapter", name, seed).state_dict().items()})
    assert refarch.judge("average(a, b)", model=model).verdict == "approximate"
    result = refarch.combine(model, "linear(inner=average(a, b): 0.5, c: 0.5)", name="whole")
    assert [one.name for one in refarch.adaptations(model)] == ["whole"]
    for key, value in result.state_dict().items():
        torch.testing.assert_close(value, 0.25 * values[0][key] + 0.25 * values[1][key] + 0.5 * values[2][key])


def test_weight_operators_stand_inside_running_ones() -> None:
    tiny = made("gpt2")
    model = tiny.model()
    batch = tiny.batch(model)
    for seed, name in enumerate(("a", "b")):
        attach(model, "lora", name, seed)
    attach(model, "prompt-tuning", "prompt", 3)
    composition = refarch.compose(model, "stack(prompt, sum(a: 0.5, b: 0.5))")
    want = outputs(model, batch)
    composition.detach(parts=False)
    composition = refarch.compose(model, "stack(prompt, both=average(a, b))")
    assert list(composition.parts) == ["prompt", "both"]
    assert [one.name for one in refarch.adaptations(model)] == ["prompt", "both"]
    torch.testing.assert_close(outputs(model, batch), want, rtol=1e-4, atol=1e-5)


def test_techniques_are_judged_by_their_properties_alone() -> None:
    judged = refarch.judge("sum(lora, prompt-tuning)")
    assert judged.verdict == "impossible"
    finding = judged.findings[0]
    assert (finding.part, finding.slot, finding.property) == (
        "prompt-tuning",
        "inputs",
        "integration form: concatenation",
    )
    assert refarch.judge("stack(prompt-tuning, sum(lora, ia3), adapter)").verdict == "exact"
    assert refarch.judge("split(x, bitfit)", {"x": "lora"}).verdict == "impossible"
    assert "impossible" in str(judged)
