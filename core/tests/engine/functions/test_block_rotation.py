"""The block-diagonal rotation that orthogonal techniques are built from."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from refarch import BlockRotation


def _rotation(blocks: int, size: int, shared: bool = False, seed: int = 0, scale: float = 1.0) -> BlockRotation:
    rotation = BlockRotation(blocks * size, size, shared)
    with torch.no_grad():
        rotation.angles.normal_(std=scale, generator=torch.Generator().manual_seed(seed))
    return rotation


@given(blocks=st.integers(1, 4), size=st.integers(1, 8), shared=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
@torch.no_grad()
def test_it_turns_within_blocks_and_back(blocks: int, size: int, shared: bool, seed: int) -> None:
    rotation = _rotation(blocks, size, shared, seed)
    matrix = rotation(torch.eye(blocks * size))
    torch.testing.assert_close(matrix, torch.block_diag(*rotation.blocks().expand(blocks, -1, -1)))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(blocks * size), rtol=0, atol=1e-5)
    x = torch.randn(2, 3, blocks * size)
    torch.testing.assert_close(rotation(rotation(x), back=True), x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rotation(x, back=True), x @ matrix.T)


def test_it_starts_as_the_identity_to_the_last_bit() -> None:
    x = torch.randn(5, 12)
    assert torch.equal(BlockRotation(12, 4)(x), x) and torch.equal(BlockRotation(12, 4)(x, back=True), x)


def test_two_dimensions_are_the_angle_of_cayleys_map() -> None:
    rotation = BlockRotation(2, 2)
    with torch.no_grad():
        rotation.angles.fill_(torch.tan(torch.tensor(0.3)))  # (I + Q)(I - Q)^-1 turns by twice the arctangent
    cosine, sine = torch.tensor(0.6).cos(), torch.tensor(0.6).sin()
    torch.testing.assert_close(rotation.blocks()[0].detach(), torch.tensor([[cosine, sine], [-sine, cosine]]))


def test_sizes_counts_and_precision() -> None:
    assert BlockRotation(12, 4).angles.shape == (3, 6) and BlockRotation(12, 4, shared=True).angles.shape == (1, 6)
    with pytest.raises(ValueError, match="blocks of 5 do not fill a width of 12"):
        BlockRotation(12, 5)
    low = _rotation(3, 4).bfloat16()
    assert low.blocks().dtype == torch.float32 and low(torch.randn(2, 12).bfloat16()).dtype == torch.bfloat16
    assert _rotation(3, 4).double().blocks().dtype == torch.float64
