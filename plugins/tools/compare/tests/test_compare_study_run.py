"""Studies that run: the same on every run, the same as separate runs, the same after kills, shared without loss."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import warm
import yaml
from refarch_compare.evidence.store import load
from safetensors.torch import load_file

from refarch import PipelineSpec, run
from refarch.cli import main
from refarch.files import locked

pytestmark = pytest.mark.slow

MATCHED = [
    "lora",
    {"name": "adapter", "preset": "pfeiffer"},
    {"name": "lora", "label": "lora-ffn", "options": {"slots": ["ffn.up"]}},
]
SAME = ("score", "metrics", "baselines", "seeds", "steps", "pipeline", "examples", "module_parameters", "saved_bytes")

PROCESSES = """
import json, os, random, signal, sys, time
import optuna, refarch_compare.study.work, refarch_text_classification.task, sklearn.metrics, torch
from refarch.cli.app import main
torch.set_num_threads(1)

def start(out, log):
    child = os.fork()
    if child == 0:
        handle = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(handle, 1), os.dup2(handle, 2)
        os._exit(main(["compare", "run", sys.argv[1], "--out", out]))
    return child

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def files(folder):
    return sum(len(names) for _, _, names in os.walk(folder))

def kill(out, log, seed):
    assert ended(start(out + "-whole", log)) == 0
    kills, chance = 0, random.Random(seed)
    for _ in range(8):
        enough = files(out) + chance.randint(1, 4)  # not by the clock: machines differ
        child = start(out, log)
        while files(out) < enough and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        kills += ended(child) == -signal.SIGKILL
    return kills, ended(start(out, log))

def share(out, log):
    children = [start(out, f"{log}-{number}") for number in (0, 1)]
    return [ended(child) for child in children]
"""


def processes(folder: Path, study: dict, call: str):
    """Run code with forked processes that each work on a study; returns what it says."""
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    code = f"{PROCESSES}\nprint(json.dumps({call}))"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = warm.run(["-c", code, "study.yaml"], folder, env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def compare_run(folder: Path, study: dict, out: str, *flags: str) -> int:
    path = folder / f"{out}.yaml"
    path.write_text(yaml.safe_dump({"name": "study", **study}))
    return main(["compare", "run", str(path), "--out", str(folder / out), "--quiet", *flags])


def records(study: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(study.glob("runs/*/record.json"))}


def tensors(cell: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in sorted(cell.glob("adaptations/*/*.safetensors")):
        found |= {f"{file.parent.name} {name}": tensor for name, tensor in load_file(file).items()}
    return found


def expect_same(one: Path, other: Path) -> None:
    got, expected = (json.loads((path / "record.json").read_text()) for path in (one, other))
    for field in SAME:
        assert got[field] == expected[field], f"{one.name}: {field}"
    before, after = tensors(one), tensors(other)
    assert before.keys() == after.keys() and before
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_study_is_reproduced_bit_for_bit_and_equals_separate_runs(study, tmp_path, capsys):
    spec = study(techniques=MATCHED, tasks=("first", "second"), seeds=3, budget={"parameters": 1000, "tolerance": 0.05})
    assert compare_run(tmp_path, spec, "one") == 0
    out = capsys.readouterr().out
    assert "lora-ffn" in out and "3/3" in out
    assert compare_run(tmp_path, spec, "two") == 0
    one, two = records(tmp_path / "one"), records(tmp_path / "two")
    assert len(one) == 3 * 2 * 3 and one.keys() == two.keys()
    assert {name: record["score"] for name, record in one.items()} == {n: record["score"] for n, record in two.items()}
    for name in one:
        expect_same(tmp_path / "one" / "runs" / name, tmp_path / "two" / "runs" / name)
    for name in ("lora.first.tiny.seed0", "adapter-pfeiffer.second.tiny.seed1", "lora-ffn.first.tiny.seed2"):
        run(PipelineSpec.parse(one[name]["pipeline"]), tmp_path / "separate" / name)
        expect_same(tmp_path / "one" / "runs" / name, tmp_path / "separate" / name)

    counts = {record["module_parameters"] for record in one.values()}
    assert all(abs(count - 1000) <= 50 for count in counts) and len(counts) == 3
    planned = {
        cell["id"]: cell["parameters"] for cell in json.loads((tmp_path / "one" / "plan.json").read_text())["cells"]
    }
    assert planned == {name: record["module_parameters"] for name, record in one.items()}, "counted before it ran"
    first = {name: first_loss(tmp_path / "one" / "runs" / name) for name in one}
    for task in ("first", "second"):
        for seed in (0, 1, 2):
            mine = {first[f"{technique}.{task}.tiny.seed{seed}"] for technique in ("lora", "lora-ffn")}
            assert len(mine) == 1, "same head, same batch; at the start neither changes the model"
    assert len({first[f"lora.first.tiny.seed{seed}"] for seed in (0, 1, 2)}) == 3
    assert len(load([tmp_path / "one"]).rows) == 18, "a study's folder is evidence"


def first_loss(cell: Path) -> float:
    return json.loads((cell / "metrics.jsonl").read_text().splitlines()[0])["loss"]


def test_a_study_killed_at_random_moments_comes_to_the_same(study, tmp_path):
    search = {"trials": 3, "settled": 1, "evaluations": 2, "learning_rate": [1e-3, 1e-1]}
    spec = study(techniques=["lora", "ia3"], seeds=2, search=search)
    kills, code = processes(tmp_path, spec, 'kill("out", "log", 11)')
    log = (tmp_path / "log").read_text()
    assert code == 0, log
    assert kills >= 3, log
    whole, out = tmp_path / "out-whole", tmp_path / "out"
    assert len(records(whole)) == 4 and records(whole).keys() == records(out).keys()
    for name in records(whole):
        expect_same(out / "runs" / name, whole / "runs" / name)
    for group in ("lora.first.tiny", "ia3.first.tiny"):
        before, after = (json.loads((path / "search" / group / "result.json").read_text()) for path in (whole, out))
        for found in (before, after):
            for trial in found["trials"]:
                trial.pop("seconds")
        assert before == after
        rate = before["learning_rate"]
        trained = {record["pipeline"]["training"]["learning_rate"] for n, record in records(out).items() if group in n}
        assert trained == {rate}
    assert len(load([out]).rows) == 4, "trials are no evidence"


def test_two_processes_share_a_study(study, tmp_path):
    search = {"trials": 2, "evaluations": 1}
    spec = study(techniques=["lora", "ia3", "bitfit"], seeds=2, search=search)
    assert processes(tmp_path, spec, 'share("out", "log")') == [0, 0]
    logs = [(tmp_path / f"log-{number}").read_text().splitlines() for number in (0, 1)]
    for kind, count in (("finished ", 6), ("trial    ", 6)):
        done = [[line.split()[1:3] for line in log if line.startswith(kind)] for log in logs]
        if kind == "finished ":
            done = [[words[:1] for words in part] for part in done]
        everything = [tuple(words) for part in done for words in part]
        assert len(everything) == len(set(everything)) == count, f"{kind}: {everything}"
        assert all(done), "each did a part"
    found = records(tmp_path / "out")
    assert len(found) == 6
    assert all(record["resumed"] == 0 for record in found.values()), "nothing was begun twice"


def test_a_cell_that_fails_is_recorded_and_the_others_finish(study, tmp_path, capsys):
    hot = {"learning_rate": 1e30, "max_grad_norm": 1e30, "warmup": 0.0, "schedule": "constant", "max_steps": 8}
    spec = study(techniques=["ia3", {"name": "lora", "label": "hot", "training": hot}, "lora"])
    assert compare_run(tmp_path, spec, "out") == 1
    captured = capsys.readouterr()
    assert "1 of 3 cells failed" in captured.err and "hot.first.tiny.seed0: the loss is" in captured.err
    assert "0/1" in captured.out and captured.out.count("1/1") == 2
    assert records(tmp_path / "out").keys() == {"ia3.first.tiny.seed0", "lora.first.tiny.seed0"}
    failure = json.loads((tmp_path / "out" / "runs" / "hot.first.tiny.seed0" / "failure.json").read_text())
    assert failure["error"] == "RunError" and "learning_rate" in failure["hint"] and not failure["traceback"]

    assert main(["compare", "run", str(tmp_path / "out"), "--quiet", "--json"]) == 1
    cells = {cell["technique"]: cell for cell in json.loads(capsys.readouterr().out)["cells"]}
    assert [cells[name]["status"] for name in ("ia3", "hot", "lora")] == ["finished", "failed", "finished"]
    assert cells["hot"]["error"].startswith("the loss is") and cells["lora"]["error"] is None
    assert cells["lora"]["score"] == records(tmp_path / "out")["lora.first.tiny.seed0"]["score"]


def test_a_study_can_grow_and_is_not_taken_for_another(study, tmp_path, capsys, monkeypatch):
    assert compare_run(tmp_path, study(), "out") == 0
    before = (tmp_path / "out" / "runs" / "lora.first.tiny.seed0" / "record.json").read_bytes()
    capsys.readouterr()
    assert compare_run(tmp_path, study(training={"max_steps": 2}), "out") == 2
    assert "it differs in training" in capsys.readouterr().err
    assert compare_run(tmp_path, study(techniques=["lora", "ia3"]), "out") == 0
    assert len(records(tmp_path / "out")) == 2
    assert (tmp_path / "out" / "runs" / "lora.first.tiny.seed0" / "record.json").read_bytes() == before

    (tmp_path / "out" / "runs" / "ia3.first.tiny.seed0" / "record.json").write_text('{"score": 0.')
    capsys.readouterr()
    assert main(["compare", "run", str(tmp_path / "out"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "ia3.first.tiny.seed0/record.json" in error and "the cell is then run again" in error
    run_folder = tmp_path / "out" / "runs" / "lora.first.tiny.seed0"
    assert compare_run(tmp_path, study(), "out/runs/lora.first.tiny.seed0") == 2
    assert f"{run_folder} holds a run, not a study" in capsys.readouterr().err


def test_a_plugin_that_breaks_costs_its_own_cells_and_retry_runs_them(study, tmp_path, capsys, monkeypatch):
    from refarch_compare.study import work

    def broken(pipeline, *arguments, **kwargs):
        if pipeline.techniques[0].name == "ia3":
            raise ZeroDivisionError("a plugin's own")
        return run(pipeline, *arguments, **kwargs)

    spec = study(techniques=["ia3", "lora"], search={"trials": 1, "evaluations": 1})
    with monkeypatch.context() as patch:
        patch.setattr(work, "run_pipeline", broken)
        assert compare_run(tmp_path, spec, "out") == 1
    assert "ia3.first.tiny.seed0: its search failed: a plugin's own" in capsys.readouterr().err
    failure = json.loads((tmp_path / "out" / "search" / "ia3.first.tiny" / "failure.json").read_text())
    assert "ZeroDivisionError" in failure["traceback"]
    assert compare_run(tmp_path, spec, "out") == 1, "failed cells are not tried again unless asked"
    assert compare_run(tmp_path, spec, "out", "--retry") == 0
    assert len(records(tmp_path / "out")) == 2


def test_a_process_takes_what_no_other_one_holds(study, tmp_path, capsys):
    """The other one is this test, which lets go of its cell when the first cell has ended."""
    from refarch_compare.study import work
    from refarch_compare.study.folder import StudyFolder
    from refarch_compare.study.plan import plan
    from refarch_compare.study.progress import Display
    from refarch_compare.study.spec import StudySpec

    from refarch import Registry, hookimpl

    registry = Registry()
    planned, files = plan(StudySpec.parse(study(techniques=["lora", "ia3"])), registry), StudyFolder(tmp_path / "out")
    files.begin(planned)
    held = locked(tmp_path / "out" / "claims" / "lora.first.tiny.seed0.lock", "works on it")
    order = []

    class Other:
        @hookimpl
        def refarch_run_finished(self, folder):
            order.append(folder.name)
            if len(order) == 1:
                assert files.status(planned.cells[0]) == "running" and files.status(planned.cells[1]) == "finished"
                held.__exit__(None, None, None)

    registry.manager.register(Other())
    held.__enter__()
    outcome = work.Worker(planned, files, registry, Display(False, 2)).work()
    assert (outcome.finished, outcome.failed, outcome.resumed) == (2, 0, 0)
    assert order == ["ia3.first.tiny.seed0", "lora.first.tiny.seed0"]
