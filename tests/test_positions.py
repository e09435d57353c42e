"""A model with a table of positions reads no more tokens than that has."""

from transformers import AutoTokenizer

from refarch import PipelineSpec
from refarch.pipeline import run


def test_texts_that_the_tokenizer_would_let_pass_are_cut(folder, pipeline, tmp_path, capsys) -> None:
    assert AutoTokenizer.from_pretrained(folder / "model").model_max_length > 10**6
    rows = (folder / "data.csv").read_text().splitlines()
    rows[-20:] = [f"{'good ' * 100}{number},pos" for number in range(20)]
    (tmp_path / "long.csv").write_text("\n".join(rows) + "\n")
    values = pipeline(folder, max_steps=1)
    values["task"]["options"]["train"] = str(tmp_path / "long.csv")
    record, _ = run(PipelineSpec.parse(values), tmp_path / "run")
    assert record.examples["test"] == 64  # whose long texts would have failed after training
