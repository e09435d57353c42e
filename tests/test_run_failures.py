"""What a run that fails leaves behind, and says."""

import pytest
import torch
from safetensors.torch import load_file

from refarch import PipelineSpec
from refarch.cli import main
from refarch.errors import DataError, RunError
from refarch.pipeline import AdaptationTrainer, run


def test_data_that_cannot_be_read_leave_the_folder_to_a_corrected_run(folder, pipeline, tmp_path):
    values = pipeline(folder, max_steps=1)
    wrong = {**values["task"]["options"], "label_column": "labels"}
    with pytest.raises(DataError, match="no column 'labels'"):
        run(PipelineSpec.parse({**values, "task": {**values["task"], "options": wrong}}), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    record, _ = run(PipelineSpec.parse(values), tmp_path / "run")
    assert (record.steps, record.resumed) == (1, 0)


@pytest.mark.parametrize("training", [{"max_steps": 3}, {"epochs": 1}], ids=str)
def test_a_run_that_fails_while_it_is_evaluated_says_how_to_go_on_and_does(
    folder, pipeline, tmp_path, monkeypatch, training
):
    spec = PipelineSpec.parse(pipeline(folder, save_every=1, **training))

    def evaluate(*_, **__):
        raise IndexError("index out of range in self")

    with monkeypatch.context() as patch:
        patch.setattr(AdaptationTrainer, "evaluate", evaluate)
        with pytest.raises(
            RunError, match=r"evaluation failed at step \d+: IndexError.*\n.*checkpoint-\d+; run .* again"
        ):
            run(spec, tmp_path / "run")
    assert not (tmp_path / "run" / "record.json").exists()
    record, out = run(spec, tmp_path / "run")
    whole, other = run(spec, tmp_path / "whole")
    assert (record.resumed, record.steps, record.metrics) == (1, whole.steps, whole.metrics)
    ours, theirs = (load_file(next((path / "adaptations" / "lora").glob("*.safetensors"))) for path in (out, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def test_the_exit_code_and_the_message_of_bad_data(folder, tmp_path, capsys):
    (tmp_path / "a.csv").write_bytes(b"text,label\nfine,1\ncaf\xe9,0\n")
    given = ["run", "--backbone", str(folder / "model"), "--technique", "lora", "--task", "text-classification"]
    assert main([*given, "--set", f"task.train={tmp_path / 'a.csv'}", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert f"Error: {tmp_path / 'a.csv'}, line 3: byte 22 of the file (0xe9) is not UTF-8" in said.err
    assert not (tmp_path / "run" / "pipeline.json").exists()
