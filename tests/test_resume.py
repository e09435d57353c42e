"""A run that is killed, as a real process, resumes to the same result."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
import warm
import yaml
from safetensors.torch import load_file

from refarch import PipelineSpec
from refarch.errors import RunError, UsageError
from refarch.pipeline import COMPLETE, RunFolder, run

pytestmark = pytest.mark.slow


def start(folder: Path, spec: dict, out: Path, **environment: str) -> warm.Process:
    path = out.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(spec))
    command = ["-m", "refarch", "run", str(path), "--out", str(out), "--quiet"]
    return warm.start(command, out.parent, {**os.environ, "OMP_NUM_THREADS": "1", **environment})


def tensors(out: Path):
    return load_file(next((out / "adaptations" / "lora").glob("*.safetensors")))


def wait_for(condition, process, limit=120):
    began = time.monotonic()
    while not condition() and process.poll() is None:
        assert time.monotonic() - began < limit
        time.sleep(0.01)


def test_a_killed_run_resumes_to_the_same_result(folder, pipeline, tmp_path):
    spec = pipeline(folder)
    whole = start(folder, spec, tmp_path / "whole")
    assert whole.wait(300) == 0, whole.stderr.read_text()

    out = tmp_path / "killed"
    kills = 0
    for marker in ("checkpoint-10", "checkpoint-40", "checkpoint-60"):
        process = start(folder, spec, out)
        wait_for(lambda m=marker: (out / "checkpoints" / m).exists(), process)  # as it is being written, maybe
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(120)
    assert kills == 3
    last = start(folder, spec, out)
    assert last.wait(300) == 0, last.stderr.read_text()

    expected, got = (json.loads((path / "record.json").read_text()) for path in (tmp_path / "whole", out))
    assert got["resumed"] == 3
    for field in ("score", "metrics", "seeds", "steps", "trainable_parameters", "examples", "pipeline"):
        assert got[field] == expected[field], field
    before, after = tensors(tmp_path / "whole"), tensors(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)

    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    trained = [line["step"] for line in steps if line["split"] == "train"]
    assert trained == sorted(set(trained)), "a step was logged twice"
    assert not (out / "checkpoints").exists()


def test_a_finished_run_is_not_run_again(folder, pipeline, tmp_path):
    spec = PipelineSpec.parse(pipeline(folder, epochs=1, max_steps=3))
    first, out = run(spec, tmp_path / "run")
    again, _ = run(spec, out)
    assert again == first
    other = PipelineSpec.parse(pipeline(folder, epochs=1, max_steps=4))
    with pytest.raises(UsageError, match=r"training\.max_steps"):
        run(other, out)


def test_a_checkpoint_cut_short_does_not_count(tmp_path):
    files = RunFolder(tmp_path)
    for step, whole in ((5, True), (10, True), (15, False)):
        path = files.checkpoints / f"checkpoint-{step}"
        path.mkdir(parents=True)
        if whole:
            (path / COMPLETE).touch()
    assert files.last_checkpoint() == files.checkpoints / "checkpoint-10"
    assert not (files.checkpoints / "checkpoint-15").exists()


def test_a_loss_that_is_not_finite_stops_the_run(folder, pipeline, tmp_path):
    # The rate overflows the head's and the modules' weights within a few steps.
    spec = PipelineSpec.parse(
        pipeline(folder, learning_rate=1e30, max_grad_norm=1e30, warmup=0.0, schedule="constant", save_every=1)
    )
    with pytest.raises(RunError, match=r"loss is .* at step") as caught:
        run(spec, tmp_path / "run")
    assert "checkpoint-" in str(caught.value)
    assert "learning_rate" in str(caught.value)
    assert not (tmp_path / "run" / "record.json").exists()


def test_two_processes_cannot_run_in_one_folder(folder, pipeline, tmp_path):
    files = RunFolder(tmp_path / "run")
    with files.held(), pytest.raises(RunError, match="another process"):
        run(PipelineSpec.parse(pipeline(folder)), tmp_path / "run")


def test_the_head_and_the_order_do_not_depend_on_the_technique(folder, pipeline, tmp_path):
    values = pipeline(folder, max_steps=1, learning_rate=1e-9)
    records = []
    for technique in ("lora", "head-only"):
        spec = PipelineSpec.parse({**values, "techniques": [technique]})
        records.append(run(spec, tmp_path / technique)[0])
    assert records[0].seeds == records[1].seeds
    assert records[0].metrics["loss"] == pytest.approx(records[1].metrics["loss"], abs=1e-6)


def test_two_processes_train_one_model(folder, pipeline, tmp_path):
    out, spec = tmp_path / "run", pipeline(folder, max_steps=6, batch_size=4, evaluate_every=3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    processes = [  # each with what torchrun tells it
        start(folder, spec, out, **together, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (0, 1)
    ]
    for process in processes:
        assert process.wait(200) == 0, process.stderr.read_text()
    record = json.loads((out / "record.json").read_text())
    assert record["steps"] == 6
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["split"] == "train"] == [1, 2, 3, 4, 5, 6], "logged by one process"

    whole, _ = run(PipelineSpec.parse(pipeline(folder, max_steps=6, batch_size=8)), tmp_path / "one")
    assert record["examples"] == whole.examples
    assert record["metrics"]["loss"] == pytest.approx(whole.metrics["loss"], abs=0.01)


def test_accumulated_batches_are_one_batch(folder, pipeline, tmp_path):
    found = []
    for batch_size, accumulated in ((8, 1), (2, 4)):
        values = pipeline(
            folder, max_steps=3, batch_size=batch_size, gradient_accumulation=accumulated, group_by_length=False
        )
        values["techniques"][0]["options"]["dropout"] = 0.0
        values["backbone"] = {
            "name": values["backbone"],
            "config": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        }
        _, out = run(PipelineSpec.parse(values), tmp_path / f"by-{accumulated}")
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        found.append([(line["loss"], line["grad_norm"]) for line in lines if line["split"] == "train"])
    assert found[0] == [pytest.approx(pair, abs=1e-4) for pair in found[1]]
