"""HRA: the conformance kit, peft with equal values, the formula on a fused projection, orthogonality, counts."""

import copy
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings, strategies as st
from peft.tuners.hra.layer import HRALayer
from refarch_hra.function import HRA
from transformers import BertConfig, BertModel

import refarch
from refarch import SlotShape
from refarch.errors import SpecError
from refarch.testing import TechniqueConformance, all_tiny

SLOTS = {
    "bert": ("attention.query", "attention.value", "ffn.down"),
    "llama": ("attention.query", "attention.key", "ffn.gate", "ffn.down"),
    "t5": ("attention.query", "attention.value", "ffn.up"),
}
"""Slots that are no parts of fused projections, and plain linear layers, which is all that peft wraps."""


class TestHRA(TechniqueConformance):
    technique = "hra"


def _tiny(family: str) -> Any:
    return all_tiny([family])[0]


def _pair(family: str, slots: tuple[str, ...], config: Any, **options: Any) -> Any:
    """Our model and peft's, on one base, with the insertions beside each other: (function, peft's layer)."""
    model = _tiny(family).model()
    twin = copy.deepcopy(model)
    adaptation = refarch.attach(model, "hra", slots=slots, **options)
    paths = [adaptation.slot_map[address] for address, _ in adaptation.functions()]
    wrapped = peft.get_peft_model(twin, config(target_modules=paths)).eval()
    layers = {name: module for name, module in wrapped.named_modules() if isinstance(module, HRALayer)}
    assert len(layers) == len(paths)
    beside = []
    for path, (_, function) in zip(paths, adaptation.functions(), strict=True):
        beside.append((function, next(layer for name, layer in layers.items() if name.endswith(path))))
    return model, adaptation, wrapped, beside


def _equal_outputs_and_merged(family: str, model: Any, adaptation: refarch.Adaptation, wrapped: Any) -> None:
    """Logits; backpropagates both losses; then the merged models."""
    tiny = _tiny(family)
    batch = tiny.batch(model, (5, 7))
    logits, wanted = model(**batch).logits, wrapped(**batch).logits
    assert (logits - _plain(family, batch)).abs().max() > 1e-3
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5)
    tiny.loss(model, batch).backward()
    tiny.loss(wrapped, batch).backward()
    with torch.no_grad():
        adaptation.merge()
        torch.testing.assert_close(model(**batch).logits, wanted, rtol=1e-5, atol=1e-5)


def _plain(family: str, batch: Any) -> Any:
    return _tiny(family).model()(**batch).logits


@pytest.mark.parametrize("family", SLOTS)
def test_equals_peft(family: str) -> None:
    def config(**fields: Any) -> Any:
        return peft.HRAConfig(r=6, **fields)

    model, adaptation, wrapped, beside = _pair(family, SLOTS[family], config, rank=6)
    with torch.no_grad():
        for function, layer in beside:
            function.vectors.normal_()
            layer.hra_u["default"].copy_(function.vectors.T)
    _equal_outputs_and_merged(family, model, adaptation, wrapped)
    for function, layer in beside:
        gradient = layer.hra_u["default"].grad.T
        assert gradient.abs().max() > 0
        torch.testing.assert_close(function.vectors.grad, gradient, rtol=1e-5, atol=1e-5)


def _chain(vectors: torch.Tensor) -> torch.Tensor:
    """H_1 ... H_r, one after another."""
    matrix = torch.eye(vectors.shape[1], dtype=vectors.dtype)
    for vector in vectors:
        unit = vector / vector.norm()
        matrix = matrix @ (torch.eye(len(unit), dtype=unit.dtype) - 2 * torch.outer(unit, unit))
    return matrix


@torch.no_grad()
def test_parts_of_a_fused_projection_by_the_formula() -> None:
    """z = W0 H x for the query's and the value's third of GPT-2's c_attn, which stores W0^T as [d_in, 3 d]."""
    tiny = _tiny("gpt2")
    model, plain = tiny.model(), tiny.model()
    adaptation = refarch.attach(model, "hra", rank=4, slots=("attention.query", "attention.value"))
    for address, function in adaptation.functions():
        function.vectors.normal_()
        weight = plain.transformer.h[int(address.split(".")[2])].attn.c_attn.weight
        third = slice(0, 32) if address.endswith("query") else slice(64, 96)
        weight[:, third] = (weight[:, third].T @ _chain(function.vectors)).T
    batch = tiny.batch(model, (5, 7))
    torch.testing.assert_close(model(**batch).logits, plain(**batch).logits, rtol=1e-5, atol=1e-5)


@given(
    width=st.integers(2, 12), pairs=st.integers(1, 5), seed=st.integers(0, 999), scale=st.sampled_from([1e-3, 1.0, 1e3])
)
@settings(max_examples=40, deadline=None)
@torch.no_grad()
def test_the_map_is_the_chain_of_reflections_and_orthogonal(width: int, pairs: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = SlotShape("ffn.up", width, 3, 0, 1, "encoder", lambda: torch.zeros(3, width))
    function = HRA(shape, 2 * pairs).double()
    function.vectors.copy_(scale * torch.randn(function.vectors.shape, generator=generator, dtype=torch.double))
    eye = torch.eye(width, dtype=torch.double)
    matrix = function.transform(eye)
    torch.testing.assert_close(matrix, _chain(function.vectors), rtol=0, atol=1e-9)
    torch.testing.assert_close(matrix @ matrix.T, eye, rtol=0, atol=1e-9)
    x, weight = (torch.randn(3, width, generator=generator, dtype=torch.double) for _ in range(2))
    torch.testing.assert_close(x @ function.transform(weight).T, function.on_input(x) @ weight.T)


@torch.no_grad()
def test_it_starts_as_the_identity_to_the_last_bit() -> None:
    adaptation = refarch.attach(_tiny("bert").model(), "hra", rank=8)
    for _, function in adaptation.functions():
        assert function.vectors.abs().min() > 0
        x = torch.randn(50, 32)
        assert torch.equal(function.on_input(x), x) and torch.equal(function.transform(x), x)


def test_parameters_of_a_layer_of_bert_base() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert refarch.attach(model, "hra", rank=8).count() == 12 * 4 * 8 * 768


def test_an_odd_rank_is_refused() -> None:
    model = _tiny("bert").model()
    with pytest.raises(SpecError, match="rank 5 is odd"):
        refarch.attach(model, "hra", rank=5)
    assert not refarch.adaptations(model)
