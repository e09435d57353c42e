"""Compacter: the conformance kit, its paper's formula written out plainly, its parameter count."""

from typing import Any

import pytest
import torch
from refarch_compacter.function import Compacter
from torch import Tensor
from transformers import BertConfig, BertModel

import refarch
from refarch.errors import SpecError
from refarch.testing import TechniqueConformance, all_tiny, outputs, randomise

BERT = all_tiny(["bert"])[0]


class TestCompacter(TechniqueConformance):
    technique = "compacter"
    options = {"bottleneck": 8}


class TestCompacterPlusPlus(TechniqueConformance):
    technique = "compacter"
    options = {"preset": "plusplus", "bottleneck": 6, "kronecker": 2, "rank": 2, "activation": "relu"}
    families = ("bert", "gpt2", "llama", "t5")


def plain(function: Compacter, x: Tensor) -> Tensor:
    """h + U f(D h + b_D) + b_U of the paper, with torch's own Kronecker product."""
    matrices = []
    for factors in (function.down, function.up):
        terms = [torch.kron(a, s @ t) for a, s, t in zip(function.rule, factors.left, factors.right, strict=True)]
        matrices.append(sum(terms))
    down, up = matrices
    return x + torch.nn.functional.gelu(x @ down.T + function.down.bias) @ up.T + function.up.bias  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_logits_and_gradients_equal_the_papers_formula(family: str) -> None:
    tiny = all_tiny([family])[0]
    model, by_hand = tiny.model(), tiny.model()
    adaptation = refarch.attach(model, "compacter", bottleneck=8, rank=2)
    randomise(adaptation)
    modules = dict(by_hand.base_model.named_modules())
    for address, function in adaptation.functions():
        assert isinstance(function, Compacter)

        def after(module: Any, args: Any, output: Tensor, function: Compacter = function) -> Tensor:
            return plain(function, output)

        modules[adaptation.slot_map[address]].register_forward_hook(after)
    batch = tiny.batch(model)
    torch.testing.assert_close(outputs(model, batch), outputs(by_hand, batch), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(outputs(model, batch), outputs(tiny.model(), batch), atol=1e-3)
    own = list(adaptation.parameters())
    found = torch.autograd.grad(tiny.loss(model, batch), own)
    wanted = torch.autograd.grad(tiny.loss(by_hand, batch), own)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_rule_is_one_for_the_whole_model() -> None:
    adaptation = refarch.attach(BERT.model(), "compacter")
    assert len({id(function.rule) for _, function in adaptation.functions()}) == 1
    assert sum("rule" in name for name, _ in adaptation.named_parameters()) == 1


def test_matrices_start_with_the_variance_of_a_linear_layer() -> None:
    adaptation = refarch.attach(BERT.model(), "compacter", bottleneck=8)
    for _, function in adaptation.functions():
        assert isinstance(function, Compacter)
        assert not function.up.left.any() and function.down.left.all()
    values = []
    for seed in range(40):
        (_, function), *_ = refarch.attach(BERT.model(), "compacter", bottleneck=8, seed=seed).functions()
        assert isinstance(function, Compacter)
        values.append(function.down(torch.eye(32), function.rule).flatten())
    assert torch.cat(values).var().item() == pytest.approx(1 / (3 * 32), rel=0.25)


@pytest.mark.parametrize(("choices", "a_layer"), [({}, 4752), ({"preset": "plusplus"}, 4752 // 2)])
def test_bert_base_has_4752_a_layer_and_64_once(choices: dict[str, Any], a_layer: int) -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    adaptation = refarch.attach(model, "compacter", bottleneck=24, kronecker=4, rank=1, **choices)
    assert adaptation.count() == 12 * a_layer + 4**3


def test_widths_that_are_not_divisible_are_refused() -> None:
    model = BERT.model()
    with pytest.raises(SpecError, match="must be divisible by kronecker=5"):
        refarch.attach(model, "compacter", bottleneck=10, kronecker=5)
    assert not refarch.adaptations(model)
