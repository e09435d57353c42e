from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from refarch.architecture import PipelineSpec, RunRecord, Seeds, Times
from refarch.plugins import ResolvedPipeline

FLAGS = ("run", "--backbone", "quokka-model", "--technique", "quokka", "--task", "quokka")


@pytest.fixture
def parts(site: Any) -> Any:
    """A technique, a task and a model, all called quokka."""
    for kind in ("technique", "task", "backbone"):
        site.plugin("quokka", kind, distribution=f"refarch-quokka-{kind}")
    return site


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[PipelineSpec, Path | None, bool]]:
    """The calls of the runner, which is replaced."""
    calls: list[tuple[PipelineSpec, Path | None, bool]] = []

    def run(pipeline: ResolvedPipeline, folder: Path | None = None, *, registry: Any, progress: bool) -> Any:
        calls.append((pipeline.pipeline, folder, progress))
        print("a plugin that prints")
        return record(pipeline.pipeline), folder or Path("runs/new")

    monkeypatch.setattr(importlib.import_module("refarch.pipeline.runner"), "run", run)
    return calls


def record(pipeline: PipelineSpec) -> RunRecord:
    return RunRecord(
        pipeline=pipeline,
        score=0.905,
        metric="accuracy",
        greater_is_better=True,
        metrics={"accuracy": 0.905, "f1": 0.9, "loss": 0.1},
        baselines={"majority": 0.585},
        seeds=Seeds(run=0, head=1, modules=2, data=3),
        times=Times(load=1.0, train=20.0, evaluate=3.0),
        trainable_parameters=1500,
        module_parameters=1000,
        total_parameters=100_000,
        peak_memory_bytes=2**30,
        saved_bytes=4096,
        steps=10,
        examples={"test": 400},
        device="cpu",
        threads=1,
        versions={},
        adaptations=(),
        started="now",
        finished="then",
    )


def dry(site: Any, *arguments: str) -> dict[str, Any]:
    result = site.refarch(*arguments, "--dry-run")
    assert result.code == 0, result.err
    return dict(yaml.safe_load(result.out))


def fails(result: Any, *texts: str) -> None:
    assert result.code == 2, (result.code, result.err)
    for text in texts:
        assert text in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


def test_dry_run_resolves_everything(parts: Any) -> None:
    data = dry(parts, *FLAGS)
    assert data["backbone"]["name"] == "quokka-model"
    assert data["techniques"] == [
        {"name": "quokka", "options": {"rank": 8, "flavour": "plain"}, "label": None, "start": None},
    ]
    assert data["task"] == {"name": "quokka", "options": {"max_length": 16}, "formulation": None}
    assert data["training"]["epochs"] == 5  # the task's own
    assert data["seed"] == 0


def test_a_dry_run_can_be_run_again_from_its_output(parts: Any, tmp_path: Path) -> None:
    data = dry(parts, *FLAGS, "--set", "technique.preset=tiny", "--set", "technique.slots=[ffn.up]", "--seed", "4")
    assert data["techniques"][0]["options"]["rank"] == 1
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(data))
    assert dry(parts, "run", str(path)) == data


def test_dry_run_loads_no_torch(parts: Any) -> None:
    program = "import sys; from refarch.cli import main; code = main(sys.argv[1:]); print('torch' in sys.modules, code)"
    result = parts.process("-c", program, *FLAGS, "--dry-run")
    assert result.out.endswith("False 0\n"), result.err


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("training.epochs=3", ("training", "epochs"), 3.0),
        ("training.learning_rate=1e-3", ("training", "learning_rate"), 0.001),
        ("technique.rank=4", ("techniques", 0, "options", "rank"), 4),
        ("technique.quokka.rank=4", ("techniques", 0, "options", "rank"), 4),
        ("techniques.quokka.rank=4", ("techniques", 0, "options", "rank"), 4),
        ("technique.options.rank=4", ("techniques", 0, "options", "rank"), 4),
        ("technique.label=mine", ("techniques", 0, "label"), "mine"),
        ("technique.slots=[attention.key, ffn.up]", ("techniques", 0, "options", "slots"), ["attention.key", "ffn.up"]),
        ("technique.layers={last: 2}", ("techniques", 0, "options", "layers"), {"last": 2}),
        ("technique.layers.last=2", ("techniques", 0, "options", "layers"), {"last": 2}),
        ("task.max_length=64", ("task", "options", "max_length"), 64),
        ("task.formulation=plain", ("task", "formulation"), "plain"),
        ("backbone.dtype=bfloat16", ("backbone", "dtype"), "bfloat16"),
        ("backbone.config.dropout=1e-1", ("backbone", "config", "dropout"), 0.1),
        ("backbone=some/other", ("backbone", "name"), "some/other"),
        ("seed=7", ("seed",), 7),
        (" seed =7", ("seed",), 7),
    ],
)
def test_set(parts: Any, setting: str, path: tuple[str | int, ...], value: Any) -> None:
    found: Any = dry(parts, *FLAGS, "--set", setting)
    for part in path:
        found = found[part]
    assert found == value


def test_set_for_one_of_several_techniques(parts: Any) -> None:
    parts.plugin("wombat")
    data = dry(parts, *FLAGS, "--technique", "wombat", "--set", "technique.wombat.rank=2", "--set", "technique.rank=3")
    assert [(item["name"], item["options"]["rank"]) for item in data["techniques"]] == [("quokka", 3), ("wombat", 2)]


@pytest.mark.parametrize(
    ("setting", "texts"),
    [
        ("training.epoch=3", ("training.epoch: there is no such field", "did you mean 'epochs'?")),
        ("trainng.epochs=3", ("a pipeline has no 'trainng'", "did you mean 'training'?")),
        ("technique.rnk=4", ("technique 'quokka' is not valid: rnk: there is no such field", "did you mean 'rank'?")),
        ("technique.rank=many", ("rank: input should be a valid integer", "but got 'many'")),
        ("technique.rank=true", ("rank: should be a number, but got True",)),
        ("technique.rank=0", ("rank: input should be greater than or equal to 1, but got 0",)),
        ("technique.flavour=sour", ("flavour: input should be 'plain' or 'sweet', but got 'sour'",)),
        ("technique.preset=tinny", ("has no preset 'tinny'", "did you mean 'tiny'?")),
        ("technique.quoka.rank=4", ("the pipeline has no technique 'quoka'", "did you mean 'quokka'")),
        ("technique.slots=[attention.querry]", ("there is no slot 'attention.querry'", "'attention.query'")),
        ("technique.slots=[inputs]", ("'inputs' and '*.key_value' are sequences",)),
        ("technique.layers={frist: 2}", ("layers.frist: there is no such field", "did you mean 'first'")),
        ("task.max_len=4", ("task 'quokka' is not valid: max_len: there is no such field", "'max_length'")),
        ("backbone.dtype=float8", ("backbone.dtype: input should be 'float32', 'bfloat16' or 'float16'",)),
        ("backbone.dtpe=float32", ("backbone.dtpe: there is no such field", "did you mean 'dtype'")),
        ("backbone=quokka", ("'quokka' is a backbone family", "an installed model: ", "quokka-model")),
        ("backbone=./nowhere", ("there is no folder './nowhere'",)),
        ("seed=-1", ("seed: input should be greater than or equal to 0, but got -1",)),
        ("seed.x=1", ("seed",)),
        ("training=3", ("training",)),
        ("rank", ("--set rank: there is no '=' in it", "hint: write --set key=value")),
        ("=3", ("--set =3: the key is empty", "hint: write --set key=value")),
        ("training..epochs=3", ("a part of the key is empty", "hint: write --set key=value")),
        ("technique.slots=[a", ("the value is not valid YAML: line 1, column 3:",)),
        ("technique.slots=!!python/object:os.system x", ("the value is not valid YAML", "could not determine")),
        ("technique.rank.x=3", ("the pipeline has no technique 'rank'",)),
    ],
)
def test_bad_settings(parts: Any, setting: str, texts: tuple[str, ...]) -> None:
    fails(parts.refarch(*FLAGS, "--set", setting, "--dry-run"), *texts)


def test_unknown_names(parts: Any) -> None:
    run = ("run", "--backbone", "quokka-model")
    result = parts.refarch(*run, "--technique", "quoka", "--task", "quokka", "--dry-run")
    fails(result, "no technique named 'quoka' is installed", "did you mean 'quokka'", "pip install refarch-quoka")
    result = parts.refarch(*run, "--technique", "quokka", "--task", "quoka", "--dry-run")
    fails(result, "no task named 'quoka' is installed", "did you mean 'quokka'")
    result = parts.refarch(*run, "--technique", "Not A Name", "--task", "quokka", "--dry-run")
    fails(result, "techniques.0.name")


def test_a_hub_id_is_noted(parts: Any) -> None:
    result = parts.refarch(*FLAGS, "--set", "backbone=quokka-modl", "--dry-run")
    assert result.code == 0
    assert "note: 'quokka-modl' is no installed model" in result.err
    assert "the nearest installed model is 'quokka-model'" in result.err


def test_a_blocked_model_is_not_looked_up_elsewhere(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFARCH_BLOCK", "backbone:quokka-model")
    fails(parts.refarch(*FLAGS, "--dry-run"), "blocked by REFARCH_BLOCK")


def test_what_is_missing_is_named(parts: Any) -> None:
    fails(parts.refarch("run"), "--backbone, --technique, --task is missing", "refarch run PIPELINE.yaml")
    fails(parts.refarch("run", "--task", "quokka"), "--backbone, --technique is missing")
    fails(parts.refarch("run", "--set", "technique.rank=3"), "the pipeline has no technique yet")


def test_a_file_and_what_wins_over_it(parts: Any, tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        "backbone: quokka-model\ntechniques: quokka\ntask: {name: quokka, options: {max_length: 8}}\n"
        "training: {learning_rate: 1e-4}\nseed: 1\n"
    )
    data = dry(parts, "run", str(path))
    assert (data["task"]["options"]["max_length"], data["training"]["learning_rate"], data["seed"]) == (8, 1e-4, 1)
    data = dry(
        parts, "run", str(path), "--seed", "2", "--task", "quokka", "--set", "task.max_length=9", "--set", "seed=3"
    )
    assert (data["task"]["options"]["max_length"], data["seed"]) == (9, 3)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("a: [1,\nb: 2\n", ("is not valid YAML: line 3, column 1: expected ',' or ']'",)),
        ("a: 1\n\tb: 2\n", ("is not valid YAML: line 2, column 1",)),
        ("seed: 1\nseed: 2\n", ("is not valid YAML: line 2, column 1: 'seed' is given twice",)),
        ("a: !!python/name:os.system\n", ("line 1, column 4: could not determine a constructor",)),
        ("- 1\n", ("holds a list, but a pipeline is a mapping", "refarch schema pipeline")),
        ("", ("holds nothing, but a pipeline is a mapping",)),
        ("just words", ("holds a str",)),
        ("\x00", ("is not valid YAML",)),
        ("a: &a [*a]\n[*a]: 1\n", ("pipeline.yaml",)),
        ("[" * 5000, ("is not valid YAML",)),
        ("seed: 1\n", ("pipeline.yaml is not valid:", "backbone: is required", "techniques: is required")),
        ("backbone: m\ntechniques: []\ntask: t\n", ("techniques",)),
        ("backbone: m\ntechnique: t\ntask: t\n", ("technique: there is no such field", "did you mean 'techniques'")),
        ("backbone: [m]\ntechniques: t\ntask: t\n", ("pipeline.yaml is not valid: backbone",)),
        ("1: 2\n", ("pipeline.yaml",)),
    ],
)
def test_bad_files(parts: Any, tmp_path: Path, content: str, texts: tuple[str, ...]) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(content)
    fails(parts.refarch("run", str(path), "--dry-run"), "pipeline.yaml", *texts)


def test_files_that_cannot_be_read(parts: Any, tmp_path: Path) -> None:
    fails(parts.refarch("run", str(tmp_path / "nowhere.yaml")), "cannot read ", "nowhere.yaml: No such file")
    fails(parts.refarch("run", str(tmp_path)), "cannot read ", "Is a directory")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\xfa\x00\x01")
    fails(parts.refarch("run", str(binary)), "binary.yaml is not valid YAML")


def test_the_result(parts: Any, ran: list[Any], tmp_path: Path) -> None:
    result = parts.refarch(*FLAGS, "--out", str(tmp_path))
    assert result.code == 0
    for text in (
        "quokka on quokka-model, quokka, seed 0",
        "0.9050  (higher is better; 400 test examples)",
        "0.5850  (trivial baseline)",
        "1,500 (1.50% of 100,000); 1,000 in modules",
        "load 1.0 s, train 20.0 s, evaluate 3.0 s",
        str(tmp_path / "record.json"),
    ):
        assert text in result.out
    assert "a plugin that prints" in result.err
    assert "a plugin that prints" not in result.out
    pipeline, folder, progress = ran[0]
    assert (pipeline.backbone.name, folder, progress) == ("quokka-model", tmp_path, True)


def test_json_and_quiet(parts: Any, ran: list[Any]) -> None:
    result = parts.refarch(*FLAGS, "--json", "--quiet")
    assert json.loads(result.out)["score"] == 0.905
    assert result.err == "a plugin that prints\n"
    _, folder, progress = ran[0]
    assert folder is not None
    assert folder.parent == Path("runs")
    assert not progress


def test_an_interrupted_run_says_how_to_resume(
    parts: Any, ran: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("refarch.pipeline.runner"), "run", run)
    result = parts.refarch(*FLAGS, "--out", str(tmp_path))
    assert result.code == 130
    assert f"--out {tmp_path} resumes this run" in result.err
    assert "Traceback" not in result.err


def test_a_finished_run_is_said_to_be_one(parts: Any, ran: list[Any], tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{}")
    assert "holds a finished run" in parts.refarch(*FLAGS, "--out", str(tmp_path)).err


def test_wrong_use_is_seen_before_anything_runs(parts: Any, ran: list[Any]) -> None:
    fails(parts.refarch(*FLAGS, "--set", "technique.rnk=4"), "rnk: there is no such field")
    assert ran == []
