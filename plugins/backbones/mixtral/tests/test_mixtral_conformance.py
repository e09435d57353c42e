"""The mixtral table against the conformance kit, and what it refuses."""

import pytest
import torch

import refarch
from refarch.errors import SlotError
from refarch.testing import PARALLEL, BackboneConformance, all_tiny, randomise


class TestMixtral(BackboneConformance):
    family = "mixtral"


@pytest.mark.parametrize(
    ("technique", "slots"),
    [
        ("lora", ["ffn.up"]),
        ("lora", ["attention.query", "ffn.down"]),
        ("lora", ["attention.query", "ffn.gate?"]),  # refused although optional: the experts do have gates
        ("ia3", ["attention.key", "ffn.hidden"]),
    ],
)
def test_experts_are_refused_with_the_reason(technique: str, slots: list[str]) -> None:
    (tiny,) = all_tiny(["mixtral"])
    model = tiny.model()
    with pytest.raises(SlotError, match="mixture of experts, whose weights are stacked"):
        refarch.attach(model, technique, slots=slots)
    assert not refarch.adaptations(model)


@pytest.mark.parametrize("insertion", ["parallel", "sequential"])
def test_the_mixture_as_a_whole_takes_an_adapter(insertion: str) -> None:
    """y + M(x) beside the mixture, y + M(y) after it, for each of its tokens."""
    (tiny,) = all_tiny(["mixtral"])
    model = tiny.model()
    module = PARALLEL.modules[0].model_copy(update={"insertion": insertion})
    adaptation = refarch.attach(model, PARALLEL.model_copy(update={"modules": (module,)}), layers=[1])
    randomise(adaptation)
    ((_, function),) = adaptation.functions()
    x = torch.randn(2, 5, 32)
    mixture = model.model.layers[1].mlp
    with torch.no_grad():
        found = mixture(x)
        with adaptation.disabled():
            y = mixture(x)
        torch.testing.assert_close(found, y + function(x if insertion == "parallel" else y))
    assert not torch.equal(found, y)
