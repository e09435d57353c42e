"""LoReFT: the conformance kit, the paper's formula written out with padding on both sides, initial values, counts."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from refarch_loreft.function import LoReFT
from torch import Tensor
from torch.nn.utils.parametrizations import orthogonal
from transformers import LlamaConfig, LlamaModel, RobertaConfig, RobertaModel

import refarch
from refarch import SlotShape
from refarch.errors import SpecError
from refarch.testing import TechniqueConformance, all_tiny, outputs, randomise


class TestLoreft(TechniqueConformance):
    technique = "loreft"
    options = {"rank": 3, "first": 2, "last": 1, "dropout": 0.1}


class TestLoreftFirst(TechniqueConformance):
    """With a cache as without: the default's tokens are at the beginning."""

    technique = "loreft"
    options = {"rank": 2}
    families = ("gpt2", "t5")


class TestLoreftUntied(TechniqueConformance):
    technique = "loreft"
    options = {"preset": "untied", "rank": 2}
    families = ("gpt2",)


LAYERS = {"bert": "bert.encoder.layer", "gpt2": "transformer.h", "llama": "model.layers"}


def chosen(mask: Tensor, first: int, last: int) -> Tensor:
    """[b, t, 1]: the first and last real tokens of each row, one by one."""
    found = torch.zeros_like(mask, dtype=torch.bool)
    for row in range(len(mask)):
        real = [i for i in range(mask.shape[1]) if mask[row, i]]
        found[row, real[:first] + (real[-last:] if last else [])] = True
    return found[..., None]


def gram_schmidt(basis: Tensor) -> Tensor:
    rows: list[Tensor] = []
    for v in basis.double():
        for row in rows:
            v = v - (v @ row) * row
        rows.append(v / v.norm())
    return torch.stack(rows)


def edited(model: Any, path: str, adaptation: refarch.Adaptation, where: dict[str, Tensor]) -> None:
    """Make a plain model compute the paper's formula with an adaptation's parameters."""
    for insertion in adaptation.insertions:
        p, at = dict(insertion.function.named_parameters()), where[insertion.spec.name]

        def edit(_: Any, args: Any, y: Any, p: dict[str, Tensor] = p, at: Tensor = at) -> Any:
            h = y if isinstance(y, Tensor) else y[0]
            r = gram_schmidt(p["basis"]).float()
            new = h + (h @ p["source.weight"].t() + p["source.bias"] - h @ r.t()) @ r
            new = torch.where(at, new, h)
            return new if isinstance(y, Tensor) else (new, *y[1:])

        model.get_submodule(f"{path}.{insertion.site.shape.layer}").register_forward_hook(edit)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("choice", [{"first": 2, "last": 1}, {"last": 3, "first": 0}, {"preset": "untied", "first": 3}])
def test_it_is_the_papers_formula_whatever_the_padding(family: str, side: str, choice: dict[str, Any]) -> None:
    tiny = all_tiny([family])[0]
    model, plain = tiny.model(), tiny.model()
    batch, lengths = {"input_ids": tiny.batch(model, (9, 9))["input_ids"]}, torch.tensor([[4], [9]])
    steps = torch.arange(9)
    batch["attention_mask"] = ((steps < lengths) if side == "right" else (steps >= 9 - lengths)).long()
    adaptation = refarch.attach(model, "loreft", rank=3, **choice)
    randomise(adaptation, scale=0.3)
    mask, first = batch["attention_mask"], choice["first"]
    tied = {"subspace": chosen(mask, first, choice.get("last", 0))}
    edited(plain, LAYERS[family], adaptation, {"begin": chosen(mask, first, 0), "end": chosen(mask, 0, 1), **tied})
    torch.testing.assert_close(outputs(model, batch), outputs(plain, batch), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs(model, batch), outputs(tiny.model(), batch), atol=1e-2)
    own = list(adaptation.parameters())
    found = torch.autograd.grad(tiny.loss(model, batch), own)
    for a, b in zip(found, torch.autograd.grad(tiny.loss(plain, batch), own), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def build(width: int = 12, rank: int = 4, dropout: float = 0.0) -> LoReFT:
    return LoReFT(SlotShape("layer", width, width, 0, 1, "encoder", lambda: torch.empty(0)), rank, dropout)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.floats(1e-3, 1e3))
def test_rows_are_orthonormal_and_span_what_the_basis_spans(seed: int, rank: int, scale: float) -> None:
    torch.manual_seed(seed)
    function = build(rank=rank)
    with torch.no_grad():
        function.basis.copy_(torch.randn(rank, 12) * scale)
    rows, basis = function.rows(), function.basis.double()
    torch.testing.assert_close(rows @ rows.T, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(basis @ rows.T @ rows, basis, rtol=1e-6, atol=1e-6 * scale)


def test_it_starts_as_the_authors_intervention() -> None:
    """Orthonormal rows, kept as they are; torch's own parametrization starts from the same draw."""
    torch.manual_seed(3)
    function = build()
    torch.testing.assert_close(function.rows().float(), function.basis, rtol=0, atol=1e-6)
    torch.manual_seed(3)
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(torch.nn.init.orthogonal_(torch.empty(4, 12)))
    torch.testing.assert_close(orthogonal(layer).weight, function.rows().float(), rtol=0, atol=1e-6)
    assert function.source.weight.abs().max() <= 12**-0.5 and function.source.bias.any()


def test_dropout_is_on_the_edited_states() -> None:
    function, x = build(dropout=0.5).train(), torch.randn(50, 12)
    edit = copy.deepcopy(function).eval()(x)
    torch.manual_seed(0)
    found = x + function(x)
    torch.manual_seed(0)
    torch.testing.assert_close(found, torch.nn.functional.dropout(x + edit, 0.5), rtol=1e-5, atol=1e-6)


def test_the_rank_is_at_most_the_width() -> None:
    model = all_tiny(["bert"])[0].model()
    with pytest.raises(SpecError, match="exceeds the width"):
        refarch.attach(model, "loreft", rank=1000)
    with pytest.raises(SpecError, match="would work at no token"):
        refarch.attach(model, "loreft", first=0)


def test_a_basis_that_is_not_finite_shows_in_the_output() -> None:
    function = build()
    with torch.no_grad():
        function.basis[1, 2] = torch.nan
    assert not torch.isfinite(function(torch.randn(2, 12))).any()


def test_counts_are_the_docstrings() -> None:
    """RoBERTa-base at rank 1, LLaMA-7B's width at rank 8: the docstring's 2 r d + r a layer."""
    with torch.device("meta"):
        roberta = RobertaModel(RobertaConfig())
        llama = LlamaModel(LlamaConfig(num_hidden_layers=2))
    assert refarch.attach(roberta, "loreft", rank=1).count() == 12 * (2 * 768 + 1)
    adaptation = refarch.attach(llama, "loreft")
    assert adaptation.count() == 2 * (2 * 8 * 4096 + 8)
    assert refarch.attach(llama, "loreft", name="two", preset="untied").count() == 2 * adaptation.count()
