"""What is LoRA's own: scale, initial values, counts, errors."""

from typing import Any

import pytest
import torch
from refarch_lora.function import LoRA
from transformers import BertConfig, BertModel

import refarch
from refarch.errors import SpecError
from refarch.testing import all_tiny

BERT = all_tiny(["bert"])[0]


def functions(**options: Any) -> list[LoRA]:
    found = [function for _, function in refarch.attach(BERT.model(), "lora", **options).functions()]
    assert all(isinstance(function, LoRA) for function in found)
    return found  # type: ignore[return-value]


def test_the_scale_is_alpha_over_r() -> None:
    assert {function.scale for function in functions(rank=4, alpha=8)} == {2.0}


def test_rank_stabilised_it_is_alpha_over_the_root_of_r() -> None:
    assert {function.scale for function in functions(rank=4, alpha=8, rank_stabilised=True)} == {4.0}


def test_the_preset_rslora_is_rank_stabilised() -> None:
    assert functions(rank=4, preset="rslora")[0].scale == functions(rank=4, rank_stabilised=True)[0].scale == 8.0


@pytest.mark.parametrize("init", ["kaiming", "gaussian", "orthogonal"])
def test_b_starts_at_zero_and_a_does_not(init: str) -> None:
    for function in functions(init=init):
        assert not function.up.any()
        assert (function.down != 0).all()


def test_kaiming_is_the_initialisation_of_a_linear_layer() -> None:
    values = torch.cat([function.down.detach().flatten() for function in functions(rank=32)])
    bound = 32**-0.5  # sqrt(6 / ((1 + 5) d_in))
    assert values.abs().max() <= bound
    assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_gaussian_has_the_spread_of_one_over_r() -> None:
    values = torch.cat([function.down.detach().flatten() for function in functions(rank=16, init="gaussian")])
    assert values.std().item() == pytest.approx(1 / 16, rel=0.05)


def test_orthogonal_has_orthonormal_rows() -> None:
    for function in functions(rank=4, init="orthogonal"):
        torch.testing.assert_close(function.down @ function.down.T, torch.eye(4), atol=1e-6, rtol=0)


def test_a_matrix_has_r_times_d_in_plus_d_out_parameters() -> None:
    adaptation = refarch.attach(BERT.model(), "lora", rank=3, slots=["ffn.up"])
    assert adaptation.count() == 2 * 3 * (32 + 48)


def test_bert_base_has_24576_a_layer() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert refarch.attach(model, "lora", rank=8).count() == 12 * 24_576


def test_a_rank_beyond_the_matrix_is_refused() -> None:
    model = BERT.model()
    with pytest.raises(SpecError, match="rank 33 exceeds the matrix's own, 32"):
        refarch.attach(model, "lora", rank=33)
    assert not refarch.adaptations(model)


@pytest.mark.parametrize("options", [{"rank": 0}, {"dropout": 1.0}, {"init": "zeros"}, {"rnak": 8}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(options))):
        refarch.attach(BERT.model(), "lora", **options)


def test_dropout_is_at_work_in_training_only() -> None:
    (function, *_) = functions(dropout=0.5)
    torch.nn.init.ones_(function.up)
    x = torch.ones(1, 32)
    assert torch.equal(function.eval()(x), function(x))
    torch.manual_seed(0)
    assert not torch.equal(function.train()(x), function(x))
