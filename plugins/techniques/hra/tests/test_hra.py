"""HRA: the conformance kit, peft with equal values, the formula on a fused projection, orthogonality, counts."""

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
from refarch.pipeline import model_on_meta
from refarch.testing import (
    TechniqueConformance,
    expect_equal_outputs,
    expect_formula_on_fused_parts,
    expect_orthogonal,
    side_by_side,
    tiny_of,
)

FUSED = ("attention.query", "attention.value")
"""Thirds of one projection, which GPT-2 stores as [d_in, 3 d]."""


class TestHRA(TechniqueConformance):
    technique = "hra"


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_equals_peft(family: str) -> None:
    def wrap(model: Any, paths: list[str]) -> Any:
        return peft.get_peft_model(model, peft.HRAConfig(r=6, target_modules=paths))

    peers = side_by_side("hra", family, wrap, HRALayer, rank=6)
    with torch.no_grad():
        for _, function, layer in peers.beside:
            function.vectors.normal_()
            layer.hra_u["default"].copy_(function.vectors.T)
    expect_equal_outputs(peers)
    for _, function, layer in peers.beside:
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


def test_parts_of_a_fused_projection_by_the_formula() -> None:
    """z = W0 H x."""
    expect_formula_on_fused_parts(
        "hra",
        "gpt2",
        FUSED,
        lambda function: function.vectors.normal_(),
        lambda function, weight: (weight.T @ _chain(function.vectors)).T,
        rank=4,
    )


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
    expect_orthogonal(matrix)
    x, weight = (torch.randn(3, width, generator=generator, dtype=torch.double) for _ in range(2))
    torch.testing.assert_close(x @ function.transform(weight).T, function.on_input(x) @ weight.T)


@torch.no_grad()
def test_it_starts_as_the_identity_to_the_last_bit() -> None:
    adaptation = refarch.attach(tiny_of("bert").model(), "hra", rank=8)
    for _, function in adaptation.functions():
        assert function.vectors.abs().min() > 0
        x = torch.randn(50, 32)
        assert torch.equal(function.on_input(x), x) and torch.equal(function.transform(x), x)


def test_parameters_of_a_layer_of_bert_base() -> None:
    model = model_on_meta(BertConfig(), BertModel)
    assert refarch.attach(model, "hra", rank=8).count() == 12 * 4 * 8 * 768


def test_an_odd_rank_is_refused() -> None:
    model = tiny_of("bert").model()
    with pytest.raises(SpecError, match="rank 5 is odd"):
        refarch.attach(model, "hra", rank=5)
    assert not refarch.adaptations(model)
