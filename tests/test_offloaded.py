"""Models whose weights lie elsewhere while idle: what is attached computes where its module does, on the same base."""

from __future__ import annotations

from pathlib import Path

import accelerate
import pytest
import torch
from transformers import PreTrainedModel

import refarch
from refarch.errors import CheckpointError
from refarch.testing import Tiny, all_tiny, outputs, randomise


def tiny() -> Tiny:
    return all_tiny(["llama"])[0]


def spread_out(folder: Path, elsewhere: str, where: str) -> PreTrainedModel:
    """The tiny model, whose modules below a path are offloaded."""
    model = tiny().model()
    assert isinstance(model, PreTrainedModel)
    names = ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb"]
    names += [name for name in ("lm_head", "score") if hasattr(model, name)]
    places = {name: where if name == elsewhere else "cpu" for name in names}
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)


PLACES = pytest.mark.parametrize("elsewhere", ["model.embed_tokens", "model.layers.0", "model.layers.1"])


@PLACES
@pytest.mark.parametrize("technique", ["lora", "ia3", "adapter"])
def test_new_parameters_are_made_where_their_module_computes(technique: str, elsewhere: str, tmp_path: Path) -> None:
    model, plain = spread_out(tmp_path, elsewhere, "disk"), tiny().model()
    batch = tiny().batch(plain)
    for own in (model, plain):
        randomise(refarch.attach(own, technique))
    (adaptation,) = refarch.adaptations(model)
    assert {str(parameter.device) for parameter in adaptation.parameters()} == {"cpu"}
    torch.testing.assert_close(outputs(model, batch), outputs(plain, batch))
    assert adaptation.penalty().device.type == "cpu"


@PLACES
def test_where_weights_lie_does_not_change_which_base_it_is(elsewhere: str, tmp_path: Path) -> None:
    model, plain = spread_out(tmp_path / "offloaded", elsewhere, "disk"), tiny().model()
    batch = tiny().batch(plain)
    adaptation = refarch.attach(model, "lora")
    randomise(adaptation)
    adaptation.save(tmp_path / "saved")
    refarch.load(plain, tmp_path / "saved")
    torch.testing.assert_close(outputs(plain, batch), outputs(model, batch))

    other = tiny().model()
    with torch.no_grad():
        next(other.get_submodule(elsewhere).parameters()).mul_(2)
    with pytest.raises(CheckpointError, match="other weights"):
        refarch.load(other, tmp_path / "saved")
