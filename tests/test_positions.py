"""A backbone's tokenizer never allows more tokens than its table of positions has."""

import pytest
import torch
from transformers import AutoTokenizer

from refarch.pipeline.backbone import _positions
from refarch.testing import Tiny, all_tiny

FAMILIES = {tiny.family.name: tiny for tiny in reversed(all_tiny()) if tiny.kind != "encoder-decoder"}
RELATIVE = {"deberta-v2", "gemma2", "gpt-neox", "llama", "mixtral", "modernbert", "olmo2", "phi", "phi3"}


@pytest.mark.parametrize("tiny", FAMILIES.values(), ids=FAMILIES)
def test_the_limit_is_what_the_model_can_read(tiny: Tiny) -> None:
    model = tiny.model()
    limit = _positions(model)
    assert (limit is None) == (tiny.family.name in RELATIVE)
    if limit is not None:
        model(input_ids=torch.full((1, limit), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, limit + 1), 5))


def test_an_encoder_decoder_with_learned_positions_has_a_limit() -> None:
    limits = {tiny.family.name: _positions(tiny.model()) for tiny in all_tiny() if tiny.kind == "encoder-decoder"}
    assert limits == {"bart": 64, "t5": None}


def test_as_many_tokens_as_positions_make_no_table() -> None:
    tiny = FAMILIES["llama"]
    assert _positions(tiny.build(tiny.config(vocab_size=64))) is None


def test_texts_that_the_tokenizer_would_let_pass_are_cut(folder, pipeline, tmp_path, capsys) -> None:
    from refarch import PipelineSpec
    from refarch.pipeline import run

    assert AutoTokenizer.from_pretrained(folder / "model").model_max_length > 10**6
    rows = (folder / "data.csv").read_text().splitlines()
    rows[-20:] = [f"{'good ' * 100}{number},pos" for number in range(20)]
    (tmp_path / "long.csv").write_text("\n".join(rows) + "\n")
    values = pipeline(folder, max_steps=1)
    values["task"]["options"]["train"] = str(tmp_path / "long.csv")
    record, _ = run(PipelineSpec.parse(values), tmp_path / "run")
    assert record.examples["test"] == 64  # whose long texts would have failed after training
