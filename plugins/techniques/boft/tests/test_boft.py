"""BOFT: the conformance kit, peft with equal values, the butterfly's reach, orthogonality, counts."""

from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings, strategies as st
from peft.tuners.boft import layer as peft_boft
from refarch_boft.function import BOFT
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


class TestBOFT(TechniqueConformance):
    technique = "boft"


class TestOneFactorWithoutScale(TechniqueConformance):
    technique = "boft"
    families = ("bert", "gpt2", "t5")
    options = {"block_size": 8, "factors": 1, "scale_outputs": False, "slots": ["attention.value", "ffn.down"]}


class BlockDiagonal:
    """What peft's CUDA kernel computes, without which it falls back to a single factor: [m, n, b, b] -> [m, d, d]."""

    @staticmethod
    def apply(blocks: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.block_diag(*factor) for factor in blocks])


@pytest.fixture
def several_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peft_boft, "get_fbd_cuda", lambda: True)
    monkeypatch.setattr(peft_boft, "FastBlockDiag", BlockDiagonal)


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
@pytest.mark.parametrize("factors", [1, 2, 3])
def test_equals_peft(family: str, factors: int, several_factors: None) -> None:
    def wrap(model: Any, paths: list[str]) -> Any:
        config = peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=factors, target_modules=paths)
        return peft.get_peft_model(model, config)

    peers = side_by_side("boft", family, wrap, peft_boft.BOFTLayer, block_size=4, factors=factors)
    row, column = torch.triu_indices(4, 4, 1)
    with torch.no_grad():
        for _, function, layer in peers.beside:
            function.scales.normal_(1, 0.3)
            layer.boft_s["default"].copy_(function.scales[:, None])
            raw = layer.boft_R["default"]  # m n b b, of which peft takes the skew part; its map has the other sign
            for level, rotation in enumerate(function.rotations):
                rotation.angles.normal_(std=0.3)
                raw[level, :, row, column] = -rotation.angles
                raw[level, :, column, row] = rotation.angles
    expect_equal_outputs(peers)
    for _, function, layer in peers.beside:
        gradient = layer.boft_R["default"].grad
        torch.testing.assert_close(function.scales.grad, layer.boft_s["default"].grad.squeeze(-1), rtol=1e-5, atol=1e-5)
        for level, rotation in enumerate(function.rotations):
            one = gradient[level, :, column, row] - gradient[level, :, row, column]
            assert one.abs().max() > 0
            torch.testing.assert_close(rotation.angles.grad, one, rtol=1e-5, atol=1e-5)


def _function(width: int, size: int, factors: int, seed: int = 0, scale: float = 1.0) -> BOFT:
    shape = SlotShape("ffn.up", width, 3, 0, 1, "encoder", lambda: torch.zeros(3, width))
    function = BOFT(shape, size, factors, True).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in function.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator, dtype=torch.double) * scale
    return function


@given(
    copies=st.integers(1, 2),
    half=st.integers(1, 3),
    factors=st.integers(1, 4),
    seed=st.integers(0, 999),
    scale=st.floats(0, 10),
)
@settings(max_examples=40, deadline=None)
@torch.no_grad()
def test_the_rotation_is_orthogonal_and_turns_weights_as_it_turns_inputs(
    copies: int, half: int, factors: int, seed: int, scale: float
) -> None:
    width = copies * 2 * half * 2 ** (factors - 1)
    function = _function(width, 2 * half, factors, seed, scale)
    matrix = function.on_input(torch.eye(width, dtype=torch.double))
    expect_orthogonal(matrix)
    assert torch.linalg.det(matrix) > 0.999
    x, weight = (torch.randn(3, width, dtype=torch.double) for _ in range(2))
    found = x @ function.transform(weight).T
    torch.testing.assert_close(found, function.on_output(function.on_input(x) @ weight.T))


def test_parts_of_a_fused_projection_by_the_formula() -> None:
    """z = s (R W0)^T x + b."""

    def fill(function: Any) -> None:
        function.scales.normal_(1, 0.3)
        for rotation in function.rotations:
            rotation.angles.normal_(std=0.3)

    def formula(function: Any, weight: torch.Tensor) -> torch.Tensor:
        return function.on_input(torch.eye(32)) @ weight * function.scales

    expect_formula_on_fused_parts("boft", "gpt2", FUSED, fill, formula, factors=3)


@torch.no_grad()
def test_log2_factors_of_blocks_of_two_reach_everything_from_everywhere() -> None:
    """The butterfly of the paper's section 4: with b = 2, m = log2 d every output depends on every input."""
    for factors in (1, 2, 3, 4):
        matrix = _function(16, 2, factors).on_input(torch.eye(16, dtype=torch.double))
        assert ((matrix.abs() > 1e-9).sum(dim=1) == 2**factors).all()


def test_parameters_of_a_layer_of_bert_base() -> None:
    count = 4 * (3 * 768 * 3 // 2 + 768)
    model = model_on_meta(BertConfig(), BertModel)
    assert refarch.attach(model, "boft", block_size=4, factors=3).count() == 12 * count


@pytest.mark.parametrize(("size", "factors"), [(5, 1), (4, 5), (3, 2)])
def test_a_butterfly_that_does_not_fit_is_refused(size: int, factors: int) -> None:
    model = tiny_of("bert").model()
    with pytest.raises(SpecError, match="the input's width 32"):
        refarch.attach(model, "boft", block_size=size, factors=factors)
    assert not refarch.adaptations(model)
