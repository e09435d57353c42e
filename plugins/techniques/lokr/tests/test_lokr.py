"""LoKr: the conformance kit, peft with equal weights, how widths are divided, and counts."""

import math
from typing import Any

import pytest
from hypothesis import given, strategies as st
from refarch_lokr.function import divide
from transformers import BertConfig, BertModel

import refarch
from refarch.pipeline import model_on_meta
from refarch.testing import TechniqueConformance, expect_equal_weights, side_by_side

peft = pytest.importorskip("peft")

PEFT_NAMES = {
    "first.matrix": "lokr_w1",
    "first.up": "lokr_w1_a",
    "first.down": "lokr_w1_b",
    "second.matrix": "lokr_w2",
    "second.up": "lokr_w2_a",
    "second.down": "lokr_w2_b",
}
OPTIONS: list[dict[str, Any]] = [
    {"rank": 3},  # D decomposed, C not
    {"rank": 8},  # both whole
    {"rank": 1, "factor": 4, "decompose_both": True},  # both decomposed
]


class TestLokr(TechniqueConformance):
    technique = "lokr"


class TestLokrDecomposedTwice(TechniqueConformance):
    technique = "lokr"
    families = ("bert", "gpt2", "t5")
    options = {"rank": 1, "alpha": 3, "factor": 4, "decompose_both": True, "slots": ["ffn.up", "ffn.down"]}


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])  # peft has none for GPT-2's Conv1D
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_logits_gradients_and_merged_weights_equal_peft(options: dict[str, Any], family: str) -> None:
    def wrap(model: Any, paths: list[str]) -> Any:
        config = peft.LoKrConfig(
            r=options["rank"],
            alpha=10,
            decompose_factor=options.get("factor", -1),
            decompose_both=options.get("decompose_both", False),
            target_modules=paths,
        )
        return peft.get_peft_model(model, config)

    layer = peft.tuners.lokr.LoKrLayer
    peers = side_by_side("lokr", family, wrap, layer, alpha=10, **options)
    expect_equal_weights(
        peers,
        lambda function, layer: {
            own: getattr(layer, PEFT_NAMES[own])["default"] for own, _ in function.named_parameters()
        },
        scale=0.2,
    )


@given(st.integers(1, 5000), st.one_of(st.none(), st.integers(1, 80)))
def test_a_width_is_divided_as_peft_does(width: int, factor: int | None) -> None:
    from peft.tuners.lokr.layer import factorization

    u, v = divide(width, factor)
    assert (u, v) == factorization(width, -1 if factor is None else factor)
    assert u * v == width and (u <= math.isqrt(width) or u == factor)


def test_a_prime_width_still_has_an_update() -> None:
    assert divide(127, None) == (1, 127)


def test_bert_base_has_the_small_factor_and_a_low_rank_one() -> None:
    model = model_on_meta(BertConfig(), BertModel)
    assert refarch.attach(model, "lokr", rank=8).count() == 12 * 2 * (24 * 24 + 8 * (32 + 32))
