"""BOFT: the conformance kit, peft with equal values, the butterfly's reach, orthogonality, counts."""

import copy
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
from refarch.testing import TechniqueConformance, all_tiny

SLOTS = {
    "bert": ("attention.query", "attention.value", "ffn.down"),
    "llama": ("attention.query", "attention.key", "ffn.gate", "ffn.down"),
    "t5": ("attention.query", "attention.value", "ffn.up"),
}
"""Slots that are no parts of fused projections, and plain linear layers, which is all that peft wraps."""


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


def _tiny(family: str) -> Any:
    return all_tiny([family])[0]


def _pair(family: str, slots: tuple[str, ...], config: Any, **options: Any) -> Any:
    """Our model and peft's, on one base, with the insertions beside each other: (function, peft's layer)."""
    model = _tiny(family).model()
    twin = copy.deepcopy(model)
    adaptation = refarch.attach(model, "boft", slots=slots, **options)
    paths = [adaptation.slot_map[address] for address, _ in adaptation.functions()]
    wrapped = peft.get_peft_model(twin, config(target_modules=paths)).eval()
    layers = {name: module for name, module in wrapped.named_modules() if isinstance(module, peft_boft.BOFTLayer)}
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
@pytest.mark.parametrize("factors", [1, 2, 3])
def test_equals_peft(family: str, factors: int, several_factors: None) -> None:
    def config(**fields: Any) -> Any:
        return peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=factors, **fields)

    model, adaptation, wrapped, beside = _pair(family, SLOTS[family], config, block_size=4, factors=factors)
    row, column = torch.triu_indices(4, 4, 1)
    with torch.no_grad():
        for function, layer in beside:
            function.scales.normal_(1, 0.3)
            layer.boft_s["default"].copy_(function.scales[:, None])
            raw = layer.boft_R["default"]  # m n b b, of which peft takes the skew part; its map has the other sign
            for level, rotation in enumerate(function.rotations):
                rotation.angles.normal_(std=0.3)
                raw[level, :, row, column] = -rotation.angles
                raw[level, :, column, row] = rotation.angles
    _equal_outputs_and_merged(family, model, adaptation, wrapped)
    for function, layer in beside:
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
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(width, dtype=torch.double), rtol=0, atol=1e-9)
    assert torch.linalg.det(matrix) > 0.999
    x, weight = (torch.randn(3, width, dtype=torch.double) for _ in range(2))
    found = x @ function.transform(weight).T
    torch.testing.assert_close(found, function.on_output(function.on_input(x) @ weight.T))


@torch.no_grad()
def test_parts_of_a_fused_projection_by_the_formula() -> None:
    """z = s (R W0)^T x + b for the query's and the value's third of GPT-2's c_attn, which stores W0 as [d_in, 3 d]."""
    tiny = _tiny("gpt2")
    model, plain = tiny.model(), tiny.model()
    adaptation = refarch.attach(model, "boft", factors=3, slots=("attention.query", "attention.value"))
    for address, function in adaptation.functions():
        function.scales.normal_(1, 0.3)
        for rotation in function.rotations:
            rotation.angles.normal_(std=0.3)
        weight = plain.transformer.h[int(address.split(".")[2])].attn.c_attn.weight
        third = slice(0, 32) if address.endswith("query") else slice(64, 96)
        weight[:, third] = function.on_input(torch.eye(32)) @ weight[:, third] * function.scales
    batch = tiny.batch(model, (5, 7))
    torch.testing.assert_close(model(**batch).logits, plain(**batch).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_log2_factors_of_blocks_of_two_reach_everything_from_everywhere() -> None:
    """The butterfly of the paper's section 4: with b = 2, m = log2 d every output depends on every input."""
    for factors in (1, 2, 3, 4):
        matrix = _function(16, 2, factors).on_input(torch.eye(16, dtype=torch.double))
        assert ((matrix.abs() > 1e-9).sum(dim=1) == 2**factors).all()


def test_parameters_of_a_layer_of_bert_base() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    count = 4 * (3 * 768 * 3 // 2 + 768)
    assert refarch.attach(model, "boft", block_size=4, factors=3).count() == 12 * count


@pytest.mark.parametrize(("size", "factors"), [(5, 1), (4, 5), (3, 2)])
def test_a_butterfly_that_does_not_fit_is_refused(size: int, factors: int) -> None:
    model = _tiny("bert").model()
    with pytest.raises(SpecError, match="the input's width 32"):
        refarch.attach(model, "boft", block_size=size, factors=factors)
    assert not refarch.adaptations(model)
