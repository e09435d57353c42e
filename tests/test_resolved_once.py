"""A pipeline is looked up once, and what was found is handed on."""

from __future__ import annotations

import shutil
from importlib.metadata import version

import pytest

import refarch
from refarch import PipelineSpec, Pool, TechniqueSpec, default_registry
from refarch.cli import main
from refarch.errors import UsageError
from refarch.pipeline import assemble, run
from refarch.plugins import configured, look_up, resolve_pipeline


@pytest.fixture
def bound(monkeypatch) -> list[str]:
    """The names of the techniques that are bound to their options, once each time."""
    found: list[str] = []
    configure = TechniqueSpec.configure

    def counted(self, choice):
        found.append(self.name)
        return configure(self, choice)

    monkeypatch.setattr(TechniqueSpec, "configure", counted)
    return found


def test_a_run_in_python_binds_each_technique_once(folder, pipeline, tmp_path, bound):
    values = pipeline(folder, max_steps=1)
    values["techniques"] = [{"name": "lora", "options": {"rank": 2}}, {"name": "ia3"}]
    record, _ = refarch.run(PipelineSpec.parse(values), tmp_path / "run")
    assert sorted(bound) == ["ia3", "lora"]
    assert record.pipeline.techniques[0].options["rank"] == 2 and "alpha" in record.pipeline.techniques[0].options


def test_a_run_on_the_command_line_binds_each_technique_once(folder, tmp_path, bound, capsys):
    flags = ["--backbone", str(folder / "model"), "--technique", "lora", "--task", "text-classification"]
    data = ["--set", f"task.train={folder / 'data.csv'}", "--set", "training.max_steps=1"]
    assert main(["run", *flags, *data, "--out", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    assert bound == ["lora"]


def test_nobody_asks_where_a_technique_is_from_that_was_just_taken_from_there(folder, pipeline, monkeypatch):
    def asked(*_):
        raise AssertionError("the registry knows")

    spec = PipelineSpec.parse(pipeline(folder))
    monkeypatch.setattr("refarch.engine.checkpoints.provenance.source", asked)
    found = assemble(spec).adaptations[0].source
    assert (found.distribution, found.version) == ("refarch-lora", version("refarch-lora"))


def test_what_is_looked_up_is_taken_as_it_is(folder, pipeline, tmp_path, bound):
    registry = default_registry()
    resolved = look_up(PipelineSpec.parse(pipeline(folder, max_steps=1)), registry)
    assert look_up(resolved, registry) is resolved
    assert resolved.pipeline == resolve_pipeline(resolved.pipeline, registry)
    bound.clear()
    record, _ = run(resolved, tmp_path / "run")
    assert record.pipeline == resolved.pipeline
    assert assemble(resolved).adaptations[0].technique == resolved.techniques[0].technique
    assert Pool().take(resolved, registry).spec is resolved.task
    assert bound == []


def test_it_says_where_a_technique_is_from_and_what_it_starts_from(folder, pipeline):
    values = pipeline(folder)
    values["techniques"] = [{"name": "lora", "start": "a/b", "options": {"rank": 4}}, {"name": "ia3", "label": "b"}]
    first, second = look_up(PipelineSpec.parse(values), default_registry()).techniques
    assert (first.label, first.start, first.technique.options["rank"]) == ("lora", "a/b", 4)
    assert (second.label, second.start, second.technique.name) == ("b", None, "ia3")
    assert (first.source.distribution, second.source.distribution) == ("refarch-lora", "refarch-ia3")


def test_two_techniques_of_one_name_are_refused_whoever_asks(folder, pipeline):
    spec = PipelineSpec.parse({**pipeline(folder), "techniques": ["lora", "lora"]})
    for ask in (look_up, resolve_pipeline, configured):
        with pytest.raises(UsageError, match="two techniques are named 'lora'"):
            ask(spec, default_registry())


def test_a_finished_run_is_read_and_its_backbone_may_be_gone(folder, pipeline, tmp_path, capsys):
    model = shutil.copytree(folder / "model", tmp_path / "model")
    record, out = run(PipelineSpec.parse({**pipeline(folder, max_steps=1), "backbone": str(model)}), tmp_path / "run")
    shutil.rmtree(model)
    assert main(["run", str(out / "pipeline.json"), "--out", str(out), "--json"]) == 0
    assert record.to_json() in capsys.readouterr().out
