"""The opt table against the conformance kit, on both variants of the architecture."""

import pytest
import torch
from refarch_opt import OPT

import refarch
from refarch import Gate
from refarch.testing import ADAPTER, BackboneConformance, all_tiny, outputs, randomise


class TestOPT(BackboneConformance):
    family = "opt"


class TestOPT350M(BackboneConformance):
    """Norms after the sublayers, no final norm, word embeddings narrower than the layers."""

    family = OPT.model_copy(
        update={
            "tiny": OPT.tiny.model_copy(
                update={"config": {**OPT.tiny.config, "word_embed_proj_dim": 16, "do_layer_norm_before": False}}
            )
        }
    )


@pytest.mark.parametrize("by", ["token", "example"])
def test_a_gate_tells_apart_the_examples_whose_tokens_are_in_one_row(by: str) -> None:
    """OPT's feed-forward layers get the tokens of all examples in one row: neither padding nor neighbours may count."""
    tiny = all_tiny(["opt"])[0]
    model = tiny.model()
    module = ADAPTER.modules[0].model_copy(update={"integration": "gated addition", "gate": Gate(by=by)})
    adaptation = refarch.attach(model, ADAPTER.model_copy(update={"modules": (module,)}), slots=["ffn.down"])
    randomise(adaptation)
    lengths = (4, 7)
    batch = tiny.batch(model, lengths)
    together = outputs(model, batch)
    for row, length in enumerate(lengths):
        alone = outputs(model, {name: x[row : row + 1, -length:] for name, x in batch.items()})
        torch.testing.assert_close(tiny.real(together, lengths, row), alone[0], atol=1e-5, rtol=1e-5)
