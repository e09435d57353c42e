"""OFT: the conformance kit, peft with equal values, the formula on a fused projection, orthogonality, counts."""

from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings, strategies as st
from peft.tuners.oft.layer import OFTLayer
from refarch_oft.function import OFT
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


class TestOFT(TechniqueConformance):
    technique = "oft"


class TestSharedBlocks(TechniqueConformance):
    technique = "oft"
    families = ("bert", "gpt2", "t5")
    options = {"block_size": 4, "share_blocks": True, "slots": ["attention.value", "ffn.down"]}


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
@pytest.mark.parametrize("shared", [False, True])
def test_equals_peft(family: str, shared: bool) -> None:
    def wrap(model: Any, paths: list[str]) -> Any:  # peft's series is an approximation; its exact map has another sign
        exact = {"r": 0, "oft_block_size": 8, "use_cayley_neumann": False, "block_share": shared}
        return peft.get_peft_model(model, peft.OFTConfig(target_modules=paths, **exact))

    peers = side_by_side("oft", family, wrap, OFTLayer, block_size=8, share_blocks=shared)
    with torch.no_grad():
        for _, function, layer in peers.beside:
            function.rotation.angles.normal_(std=0.3)
            layer.oft_R["default"].weight.copy_(-function.rotation.angles)
    expect_equal_outputs(peers)
    for _, function, layer in peers.beside:
        gradient = layer.oft_R["default"].weight.grad
        assert gradient.abs().max() > 0
        torch.testing.assert_close(function.rotation.angles.grad, -gradient, rtol=1e-5, atol=1e-5)


def _rotation(angles: torch.Tensor, size: int) -> torch.Tensor:
    """diag((I + Q)(I - Q)^-1) by the formula, in loops."""
    blocks = []
    for row in angles:
        skew, entries = torch.zeros(size, size), iter(row)
        for i in range(size):
            for j in range(i + 1, size):
                skew[i, j] = next(entries)
                skew[j, i] = -skew[i, j]
        blocks.append((torch.eye(size) + skew) @ torch.linalg.inv(torch.eye(size) - skew))
    return torch.block_diag(*blocks)


def test_parts_of_a_fused_projection_by_the_formula() -> None:
    """z = (R W0)^T x."""
    expect_formula_on_fused_parts(
        "oft",
        "gpt2",
        FUSED,
        lambda function: function.rotation.angles.normal_(std=0.3),
        lambda function, weight: _rotation(function.rotation.angles, 4) @ weight,
        block_size=4,
    )


@given(blocks=st.integers(1, 4), size=st.integers(2, 9), seed=st.integers(0, 999), scale=st.floats(0, 10))
@settings(max_examples=40, deadline=None)
@torch.no_grad()
def test_the_map_is_orthogonal_and_turns_weights_as_it_turns_inputs(
    blocks: int, size: int, seed: int, scale: float
) -> None:
    width = blocks * size
    generator = torch.Generator().manual_seed(seed)
    function = OFT(SlotShape("ffn.up", width, 3, 0, 1, "encoder", lambda: torch.zeros(3, width)), size, False).double()
    angles = torch.randn(function.rotation.angles.shape, generator=generator, dtype=torch.double) * scale
    function.rotation.angles.copy_(angles)
    matrix = function.on_input(torch.eye(width, dtype=torch.double))
    expect_orthogonal(matrix)
    assert torch.linalg.det(matrix) > 0.999  # a rotation, never a reflection
    x, weight = (torch.randn(3, width, generator=generator, dtype=torch.double) for _ in range(2))
    torch.testing.assert_close(x @ function.transform(weight).T, function.on_input(x) @ weight.T)
    norms = torch.linalg.vector_norm
    torch.testing.assert_close(norms(function.transform(weight), dim=1), norms(weight, dim=1))


@pytest.mark.parametrize(("shared", "count"), [(False, 4 * 768 * 7 // 2), (True, 4 * 8 * 7 // 2)])
def test_parameters_of_a_layer_of_bert_base(shared: bool, count: int) -> None:
    assert (
        refarch.attach(model_on_meta(BertConfig(), BertModel), "oft", block_size=8, share_blocks=shared).count()
        == 12 * count
    )


def test_blocks_that_do_not_fill_the_input_are_refused() -> None:
    model = tiny_of("bert").model()
    with pytest.raises(SpecError, match="blocks of 5 do not fill a width of 32"):
        refarch.attach(model, "oft", block_size=5)
    assert not refarch.adaptations(model)
