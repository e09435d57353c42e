"""The opt table against the conformance kit, on both variants of the architecture."""

import pytest
from refarch_opt import OPT

import refarch
from refarch import Gate
from refarch.testing import BackboneConformance
from refarch.testing.models import all_tiny, outputs
from refarch.testing.probes import ADAPTER


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


@pytest.mark.parametrize(("by", "works"), [("token", True), ("example", False)])
def test_a_gate_by_example_needs_a_batch_axis(by: str, works: bool) -> None:
    """OPT's feed-forward layers get the tokens of all examples in one row, of which there is no mean per example."""
    tiny = all_tiny(["opt"])[0]
    model = tiny.model()
    module = ADAPTER.modules[0].model_copy(update={"integration": "gated addition", "gate": Gate(by=by)})
    refarch.attach(model, ADAPTER.model_copy(update={"modules": (module,)}), slots=["ffn.down"])
    if works:
        outputs(model, tiny.batch(model))
        return
    with pytest.raises(refarch.RefarchError, match="a batch axis"):
        outputs(model, tiny.batch(model))
