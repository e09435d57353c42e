"""A prefix in peft's files, where it is a cache: the task, positions, and the two stacks of an encoder-decoder."""

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from refarch_interchange import Difference, load_peft, save_peft
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration

import refarch
from refarch.errors import CheckpointError, CompositionError, RefarchError
from refarch.testing import all_tiny, outputs, randomise

from .support import batch_of, close, spread, tiny_of, trained_by_peft, with_peft


@pytest.mark.parametrize(
    ("family", "said"), [("t5", "encoder-decoder"), ("distilbert", "takes no"), ("albert", "share")]
)
def test_a_prefix_where_pefts_cache_is_something_else_is_refused(family: str, said: str, tmp_path: Path) -> None:
    tiny = all_tiny([family])[-1]
    adaptation = refarch.attach(tiny.model(), "prefix-tuning", length=3, hidden=8)
    with pytest.raises(CompositionError, match=said):
        save_peft(adaptation, tmp_path)


@pytest.mark.parametrize(
    ("family", "layers", "said"), [("t5", {}, "at that of decoder and encoder"), ("bart", {"stacks": ["decoder"]}, "")]
)
def test_a_counted_prefix_is_for_a_decoder_with_position_biases(
    family: str, layers: dict[str, Any], said: str, tmp_path: Path
) -> None:
    model = tiny_of(family).model()
    with pytest.raises(RefarchError, match=said or "names no position biases"):
        save_peft(refarch.attach(model, "prefix-tuning", preset="counted", length=3, hidden=8, layers=layers), tmp_path)
    assert not list(tmp_path.iterdir())


def test_pefts_order_of_layers_in_an_encoder_decoder(tmp_path: Path) -> None:
    """Of three layers, the decoder's second has the values of the table's third, and its third those of the second."""
    tiny = tiny_of("t5")
    batch = batch_of(tiny)
    config = T5Config(**{**tiny.model().config.to_dict(), "num_layers": 3, "num_decoder_layers": 3})

    def model() -> T5ForConditionalGeneration:
        torch.manual_seed(0)
        return T5ForConditionalGeneration(config).eval()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(
            model(), peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="SEQ_2_SEQ_LM")
        ).eval()
        spread(wrapped)
        wrapped.save_pretrained(str(tmp_path))
    own = model()
    adaptation = load_peft(own, tmp_path)
    close(outputs(own, batch), outputs(wrapped, batch))
    table = load_file(tmp_path / "adapter_model.safetensors")["prompt_embeddings"].unflatten(1, (3, 2, -1))
    for layer, (_, function) in enumerate(adaptation.functions()):
        assert torch.equal(function.keys, table[:, (0, 2, 1)[layer], 0])


def test_a_table_for_fewer_layers_than_the_decoder_has_is_refused(tmp_path: Path) -> None:
    trained_by_peft(
        tiny_of("t5"),
        peft.PrefixTuningConfig(num_virtual_tokens=3, num_layers=1, task_type="SEQ_2_SEQ_LM"),
        tmp_path,
    )
    model = tiny_of("t5").model()
    with pytest.raises(CheckpointError, match="another base"):
        load_peft(model, tmp_path)
    assert not refarch.adaptations(model)


def test_a_prefix_is_written_for_the_task_of_its_model(tmp_path: Path) -> None:
    for family, head, task in (("llama", "LM", "CAUSAL_LM"), ("bert", "SequenceClassification", "FEATURE_EXTRACTION")):
        tiny = tiny_of(family, head)
        model = tiny.model()
        adaptation = refarch.attach(model, "prefix-tuning", length=3, hidden=8)
        randomise(adaptation)
        with pytest.warns(Difference, match="positions"):
            save_peft(adaptation, tmp_path / family)
        assert json.loads((tmp_path / family / "adapter_config.json").read_text())["task_type"] == task
        close(outputs(with_peft(tiny, tmp_path / family), batch_of(tiny)), outputs(model, batch_of(tiny, shift=3)))
