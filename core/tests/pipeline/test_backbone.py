"""How many tokens a model can read, and where models go."""

import pytest
import torch

from refarch.errors import UsageError
from refarch.pipeline.backbone import device, position_limit
from refarch.testing import Tiny, all_tiny

FAMILIES = {tiny.family.name: tiny for tiny in reversed(all_tiny()) if tiny.kind != "encoder-decoder"}
RELATIVE = {"deberta-v2", "gemma2", "gpt-neox", "llama", "mixtral", "modernbert", "olmo2", "phi", "phi3"}


@pytest.mark.parametrize("tiny", FAMILIES.values(), ids=FAMILIES)
def test_the_limit_is_what_the_model_can_read(tiny: Tiny) -> None:
    model = tiny.model()
    limit = position_limit(model)
    assert (limit is None) == (tiny.family.name in RELATIVE)
    if limit is not None:
        model(input_ids=torch.full((1, limit), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, limit + 1), 5))


def test_an_encoder_decoder_with_learned_positions_has_a_limit() -> None:
    limits = {tiny.family.name: position_limit(tiny.model()) for tiny in all_tiny() if tiny.kind == "encoder-decoder"}
    assert limits == {"bart": 64, "t5": None}


def test_as_many_tokens_as_positions_make_no_table() -> None:
    tiny = FAMILIES["llama"]
    assert position_limit(tiny.build(tiny.config(vocab_size=64))) is None


def test_a_device_is_found_or_refused_by_name() -> None:
    assert device("cpu") == torch.device("cpu") == device(torch.device("cpu"))
    assert device() == (torch.accelerator.current_accelerator() or torch.device("cpu"))
    with pytest.raises(UsageError, match=r"the device 'nowhere' cannot be used"):
        device("nowhere")
