"""What a run writes on the way: seconds of training, evaluations, and the split that gives the score."""

import json

import pytest

from refarch import PipelineSpec
from refarch.errors import SpecError, UsageError
from refarch.pipeline import RunFolder, run

pytestmark = pytest.mark.slow


def lines(out, split):
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == split]


def test_metrics_tell_the_seconds_and_evaluations_end_with_the_run(folder, pipeline, tmp_path):
    record, out = run(PipelineSpec.parse(pipeline(folder, max_steps=7, evaluations=3)), tmp_path / "run")
    assert [line["step"] for line in lines(out, "validation")] == [3, 6, 7]
    seconds = [line["seconds"] for line in lines(out, "train")]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] < seconds[-1] <= record.times.train
    at = {line["step"]: line["seconds"] for line in lines(out, "train")}
    assert all(line["seconds"] == at[line["step"]] for line in lines(out, "validation")), "evaluating takes none of it"


def test_a_resumed_run_counts_the_seconds_of_what_it_kept(tmp_path):
    files = RunFolder(tmp_path)
    for step in (2, 4, 6):
        files.log({"step": step, "seconds": step / 2})
    assert files.rewind(5) == pytest.approx(2.5)  # step 4 took 2 seconds, and 5 was not logged
    assert [json.loads(line)["step"] for line in files.metrics.read_text().splitlines()] == [2, 4]
    assert files.rewind(0) == 0.0


def test_a_score_on_validation_never_sees_the_test_split(folder, pipeline, tmp_path):
    values = pipeline(folder, max_steps=2)
    record, out = run(PipelineSpec.parse({**values, "score_on": "validation"}), tmp_path / "run")
    assert not lines(out, "test")
    assert lines(out, "validation")[-1]["accuracy"] == record.score
    values["task"]["options"]["validation_size"] = 0
    with pytest.raises(UsageError, match="has none here"):
        run(PipelineSpec.parse({**values, "score_on": "validation"}), tmp_path / "none")
    assert not (tmp_path / "none" / "metrics.jsonl").exists(), "found out before training"


@pytest.mark.parametrize(
    ("technique", "options", "modules", "trained"), [("lora", {"rank": 2}, 512, 512 + 66), ("head-only", {}, 66, 66)]
)
def test_a_record_counts_modules_without_the_head(folder, pipeline, tmp_path, technique, options, modules, trained):
    values = {**pipeline(folder, max_steps=1), "techniques": [{"name": technique, "options": options}]}
    record, _ = run(PipelineSpec.parse(values), tmp_path / "run")
    assert record.module_parameters == modules  # rank 2 x (32 + 32) at query and value of 2 layers; 32 x 2 + 2
    assert record.trainable_parameters == trained


def test_evaluations_have_one_rhythm(folder, pipeline):
    with pytest.raises(SpecError, match="either evaluate_every or evaluations"):
        PipelineSpec.parse(pipeline(folder, evaluations=3, evaluate_every=2))
