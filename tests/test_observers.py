"""Observer plugins hear of a run, in order, and a broken one does not stop it."""

import types

import pytest

import refarch
from refarch.pipeline import run
from refarch.plugins import Found, Registry, Settings, scan

pytestmark = pytest.mark.slow


@pytest.fixture
def heard(monkeypatch):
    """A registry with an observer and a broken one; gives the registry and the list of what was heard."""
    calls = []
    module = types.ModuleType("listening")

    @refarch.hookimpl
    def refarch_pipeline_built(pipeline, folder):
        calls.append(("built", pipeline.task.name))

    @refarch.hookimpl
    def refarch_step(step, total, metrics):
        calls.append(("step", step, total, "loss" in metrics))

    @refarch.hookimpl
    def refarch_evaluated(step, split, metrics):
        calls.append(("evaluated", step, split, "accuracy" in metrics))

    @refarch.hookimpl
    def refarch_run_finished(record, folder):
        calls.append(("finished", record.steps, (folder / "record.json").is_file()))

    for function in (refarch_pipeline_built, refarch_step, refarch_evaluated, refarch_run_finished):
        setattr(module, function.__name__, function)
    monkeypatch.setitem(__import__("sys").modules, "listening", module)
    settings = Settings()
    found = [
        *scan(settings),
        Found("listening", "observer", "listening", "listening", "1", ""),
        Found("deaf", "observer", "no_such_module", "deaf", "1", ""),
    ]
    return Registry(settings, found), calls


def test_observers_hear_in_order(heard, folder, pipeline, tmp_path):
    registry, calls = heard
    spec = refarch.PipelineSpec.parse(pipeline(folder, max_steps=4, evaluate_every=2))
    record, _ = run(spec, tmp_path / "run", registry=registry)
    assert calls[0] == ("built", "text-classification")
    assert [call for call in calls if call[0] == "step"] == [("step", step, 4, True) for step in (1, 2, 3, 4)]
    assert [call for call in calls if call[0] == "evaluated"] == [
        ("evaluated", 2, "validation", True),
        ("evaluated", 4, "validation", True),
        ("evaluated", 4, "test", True),
    ]
    assert calls[-1] == ("finished", record.steps, True)
