"""LoHa: the conformance kit, peft with equal weights, counts, and the rank that the product reaches."""

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

import refarch
from refarch.pipeline import model_on_meta
from refarch.testing import TechniqueConformance, expect_equal_weights, randomise, side_by_side, tiny_of

peft = pytest.importorskip("peft")

PEFT_NAMES = {"up_1": "hada_w1_a", "down_1": "hada_w1_b", "up_2": "hada_w2_a", "down_2": "hada_w2_b"}


class TestLoha(TechniqueConformance):
    technique = "loha"


class TestLohaOnTheFeedForward(TechniqueConformance):
    technique = "loha"
    families = ("bert", "gpt2", "t5")
    options = {"rank": 3, "alpha": 5, "slots": ["ffn.up", "ffn.down"]}


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])  # peft has none for GPT-2's Conv1D
def test_logits_gradients_and_merged_weights_equal_peft(family: str) -> None:
    def wrap(model: Any, paths: list[str]) -> Any:
        return peft.get_peft_model(model, peft.LoHaConfig(r=4, alpha=10, target_modules=paths))

    peers = side_by_side("loha", family, wrap, peft.tuners.loha.LoHaLayer, rank=4, alpha=10)
    expect_equal_weights(
        peers,
        lambda function, layer: {own: getattr(layer, theirs)["default"] for own, theirs in PEFT_NAMES.items()},
        scale=0.3,
    )


def test_the_update_reaches_rank_r_squared() -> None:
    adaptation = refarch.attach(tiny_of("gpt2").model(), "loha", rank=3)
    randomise(adaptation, scale=1.0)
    for _, function in adaptation.functions():
        assert torch.linalg.matrix_rank(function.delta()) == 9


def test_bert_base_has_2_r_d_in_plus_d_out() -> None:
    model = model_on_meta(BertConfig(), BertModel)
    assert refarch.attach(model, "loha", rank=8).count() == 12 * 2 * 2 * 8 * (768 + 768)
