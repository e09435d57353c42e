"""OFT: the conformance kit, peft with equal values, the formula on a fused projection, orthogonality, counts."""

import copy
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
from refarch.testing import TechniqueConformance, all_tiny

SLOTS = {
    "bert": ("attention.query", "attention.value", "ffn.down"),
    "llama": ("attention.query", "attention.key", "ffn.gate", "ffn.down"),
    "t5": ("attention.query", "attention.value", "ffn.up"),
}
"""Slots that are no parts of fused projections, and plain linear layers, which is all that peft wraps."""


class TestOFT(TechniqueConformance):
    technique = "oft"


class TestSharedBlocks(TechniqueConformance):
    technique = "oft"
    families = ("bert", "gpt2", "t5")
    options = {"block_size": 4, "share_blocks": True, "slots": ["attention.value", "ffn.down"]}


def _tiny(family: str) -> Any:
    return all_tiny([family])[0]


def _pair(family: str, slots: tuple[str, ...], config: Any, **options: Any) -> Any:
    """Our model and peft's, on one base, with the insertions beside each other: (function, peft's layer)."""
    model = _tiny(family).model()
    twin = copy.deepcopy(model)
    adaptation = refarch.attach(model, "oft", slots=slots, **options)
    paths = [adaptation.slot_map[address] for address, _ in adaptation.functions()]
    wrapped = peft.get_peft_model(twin, config(target_modules=paths)).eval()
    layers = {name: module for name, module in wrapped.named_modules() if isinstance(module, OFTLayer)}
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
@pytest.mark.parametrize("shared", [False, True])
def test_equals_peft(family: str, shared: bool) -> None:
    def config(**fields: Any) -> Any:  # peft's series is an approximation; its exact map has the other sign
        return peft.OFTConfig(r=0, oft_block_size=8, use_cayley_neumann=False, block_share=shared, **fields)

    model, adaptation, wrapped, beside = _pair(family, SLOTS[family], config, block_size=8, share_blocks=shared)
    with torch.no_grad():
        for function, layer in beside:
            function.rotation.angles.normal_(std=0.3)
            layer.oft_R["default"].weight.copy_(-function.rotation.angles)
    _equal_outputs_and_merged(family, model, adaptation, wrapped)
    for function, layer in beside:
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


@torch.no_grad()
def test_parts_of_a_fused_projection_by_the_formula() -> None:
    """z = (R W0)^T x for the query's and the value's third of GPT-2's c_attn, which stores W0 as [d_in, 3 d]."""
    tiny = _tiny("gpt2")
    model, plain = tiny.model(), tiny.model()
    adaptation = refarch.attach(model, "oft", block_size=4, slots=("attention.query", "attention.value"))
    for address, function in adaptation.functions():
        function.rotation.angles.normal_(std=0.3)
        weight = plain.transformer.h[int(address.split(".")[2])].attn.c_attn.weight
        third = slice(0, 32) if address.endswith("query") else slice(64, 96)
        weight[:, third] = _rotation(function.rotation.angles, 4) @ weight[:, third]
    batch = tiny.batch(model, (5, 7))
    torch.testing.assert_close(model(**batch).logits, plain(**batch).logits, rtol=1e-5, atol=1e-5)


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
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(width, dtype=torch.double), rtol=0, atol=1e-9)
    assert torch.linalg.det(matrix) > 0.999  # a rotation, never a reflection
    x, weight = (torch.randn(3, width, generator=generator, dtype=torch.double) for _ in range(2))
    torch.testing.assert_close(x @ function.transform(weight).T, function.on_input(x) @ weight.T)
    norms = torch.linalg.vector_norm
    torch.testing.assert_close(norms(function.transform(weight), dim=1), norms(weight, dim=1))


@pytest.mark.parametrize(("shared", "count"), [(False, 4 * 768 * 7 // 2), (True, 4 * 8 * 7 // 2)])
def test_parameters_of_a_layer_of_bert_base(shared: bool, count: int) -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert refarch.attach(model, "oft", block_size=8, share_blocks=shared).count() == 12 * count


def test_blocks_that_do_not_fill_the_input_are_refused() -> None:
    model = _tiny("bert").model()
    with pytest.raises(SpecError, match="blocks of 5 do not fill a width of 32"):
        refarch.attach(model, "oft", block_size=5)
    assert not refarch.adaptations(model)
