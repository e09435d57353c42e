"""Parts of fused projections: which features they own, and that a module there is an update of just those rows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

import refarch
from refarch.architecture.family import FusedPart
from refarch.engine.layers.linear import part_rows, put_part, take_part
from refarch.errors import SlotError
from refarch.testing.models import all_tiny, outputs

# For 4 heads of 8 features (Phi-3: 2 key heads): the fused layer, and the rows of its queries and of its values.
FUSED: dict[str, tuple[str, list[int], list[int]]] = {
    "gpt2": ("attn.c_attn", list(range(32)), list(range(64, 96))),
    "gpt-neox": (
        "attention.query_key_value",
        [24 * head + i for head in range(4) for i in range(8)],
        [24 * head + 16 + i for head in range(4) for i in range(8)],
    ),
    "phi3": ("self_attn.qkv_proj", list(range(32)), list(range(48, 64))),
}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 3), st.data())
def test_a_part_is_an_index_of_features(shares: list[int], groups: int, unit: int, data: st.DataObject) -> None:
    run = unit * sum(shares)
    part = FusedPart(data.draw(st.integers(0, len(shares) - 1)), tuple(shares), groups)
    begin = unit * sum(shares[: part.number])
    rows = [run * group + begin + i for group in range(groups) for i in range(unit * shares[part.number])]
    assert part_rows(groups * run, part).tolist() == rows and part.width(groups * run) == len(rows)
    for dim, shape in ((-1, (2, groups * run)), (0, (groups * run, 2)), (0, (groups * run,))):
        tensor, new = torch.randn(shape), torch.randn(groups * run)
        taken = take_part(tensor, part, dim)
        assert torch.equal(taken, tensor.index_select(dim, torch.tensor(rows)))
        own = new[: len(rows)].reshape([-1 if d == dim % len(shape) else 1 for d in range(len(shape))]).expand_as(taken)
        expected = tensor.index_copy(dim % len(shape), torch.tensor(rows), own)
        assert torch.equal(put_part(tensor, part, own, dim), expected)


def test_a_width_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match="50 features do not divide"):
        FusedPart(0, (1, 1, 1), 4).width(50)


@pytest.mark.parametrize("family", FUSED)
def test_a_part_equals_one_peft_update_of_the_whole(family: str) -> None:
    """Query and value equal an update of the fused layer of rank 2 r, in which the key's rows of B are zero."""
    peft = pytest.importorskip("peft")
    path, query_rows, value_rows = FUSED[family]
    (tiny, rank) = (all_tiny([family])[0], 3)
    model = tiny.model()
    batch = tiny.batch(model, (5, 7))
    config = peft.LoraConfig(
        r=2 * rank, lora_alpha=2 * 16, target_modules=rf".*{path}", fan_in_fan_out=family == "gpt2", lora_dropout=0.0
    )
    wrapped = peft.get_peft_model(copy.deepcopy(model), config).eval()
    adaptation = refarch.attach(model, "lora", rank=rank)  # alpha / r as theirs
    functions: dict[str, Any] = dict(adaptation.functions())
    layers = [m for _, m in wrapped.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
    pairs = []
    with torch.no_grad():
        for index, layer in enumerate(layers):
            query, value = (functions[f"low_rank.decoder.{index}.attention.{part}"] for part in ("query", "value"))
            query.up.normal_(std=0.2)
            value.up.normal_(std=0.2)
            down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            down.copy_(torch.cat([query.down, value.down]))
            up.zero_()
            up[query_rows, :rank], up[value_rows, rank:] = query.up, value.up
            pairs.append((query, value, down, up))
    expected = outputs(wrapped, batch)
    torch.testing.assert_close(outputs(model, batch), expected, rtol=1e-5, atol=1e-5)
    tiny.loss(model, batch).backward()
    tiny.loss(wrapped, batch).backward()
    for query, value, down, up in pairs:
        torch.testing.assert_close(torch.cat([query.down.grad, value.down.grad]), down.grad, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(query.up.grad, up.grad[query_rows, :rank], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(value.up.grad, up.grad[value_rows, rank:], rtol=1e-5, atol=1e-5)
    adaptation.merge()
    adaptation.commit()
    merged = wrapped.merge_and_unload().state_dict()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, merged[key], rtol=1e-5, atol=1e-6)


def test_entries_that_do_not_fit_the_configuration() -> None:
    (tiny,) = all_tiny(["phi3"])
    for entry, message in (
        ("self_attn.qkv_proj[0/heads:key_heads]", "Phi3Config has no number 'heads'"),
        ("self_attn.qkv_proj[0/7 per num_attention_heads]", "do not divide"),
    ):
        (stack,) = tiny.family.stacks
        table = stack.model_copy(update={"slots": {**stack.slots, "attention.query": entry}})
        with pytest.raises(SlotError, match=message):
            refarch.attach(tiny.model(), "lora", family=tiny.family.model_copy(update={"stacks": (table,)}))


def test_what_cannot_be_reached_needs_a_reason_and_no_path() -> None:
    (tiny,) = all_tiny(["mixtral"])
    table = tiny.family.stacks[0].model_dump()
    for wrong, message in (
        ({"ffn.up": " "}, "needs the reason"),
        ({"fnn": "x"}, "there is no slot 'fnn'"),
        ({"attention.query": "x"}, "said to be unreachable"),
    ):
        with pytest.raises(refarch.RefarchError, match=message):
            type(tiny.family.stacks[0]).parse({**table, "unreachable": wrong})
