"""From a study's file to its cells: what is refused before anything runs, and sizes that meet a budget."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from hypothesis import given, settings, strategies as st
from refarch_compare.cost.budget import BudgetError, nearest
from refarch_compare.study.plan import plan
from refarch_compare.study.spec import StudySpec, differences_allowed

from refarch import Registry, TechniqueSpec, default_registry
from refarch.cli import main
from refarch.errors import DataError, RefarchError, SlotError, SpecError, UsageError


@pytest.fixture
def planned(study):
    """A function that plans a study of plain data."""

    def make(**fields):
        return plan(StudySpec.parse(study(**fields)), Registry())

    return make


def test_the_first_study_compares_six_techniques_at_a_budget_that_all_but_two_meet(capsys):
    assert main(["compare", "run", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    cells = [cell for cell in found["cells"] if cell["seed"] == 0]
    budgets = {cell["technique"]: (cell["parameters"], cell["matched"]) for cell in cells}
    assert [name for name, (_, matched) in budgets.items() if matched] == [
        "lora",
        "adapter-pfeiffer",
        "prefix-tuning",
        "bitfit",
    ]
    assert budgets["ia3"] == (6 * (384 + 384 + 1536), False) and budgets["head-only"] == (2 * 385, None)
    assert "ia3 on minilm: the nearest to 27,800 is 13,824" in found["notes"][0] and len(found["notes"]) == 1
    assert len(found["cells"]) == 6 * 3 and {cell["backbone"] for cell in cells} == {"minilm"}


# the file ----------------------------------------------------------------------------------------------------------


def test_shorthands_and_labels():
    spec = StudySpec.parse(
        {
            "techniques": ["lora", {"name": "adapter", "preset": "pfeiffer"}, {"name": "lora", "label": "small"}],
            "tasks": "bbc-news",
            "backbones": ["somewhere/minilm.v2", "minilm"],
            "seeds": 2,
            "budget": 5000,
        }
    )
    assert [entry.label for entry in spec.techniques] == ["lora", "adapter-pfeiffer", "small"]
    assert [entry.label for entry in spec.backbones] == ["minilm-v2", "minilm"]
    assert spec.seeds == (0, 1)
    assert spec.budget is not None and spec.budget.parameters == 5000
    assert StudySpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": [1, 1]}, "seeds: 1 stands there twice"),
        ({"seeds": [-1]}, "-1 is no seed"),
        ({"seeds": []}, "seeds"),
        ({"techniques": ["lora", "lora"]}, "'lora' stands there twice, the same each time"),
        ({"techniques": ["lora", {"name": "lora", "options": {"rank": 2}}]}, "give each a 'label'"),
        ({"techniques": [{"name": "lora", "label": "../up"}]}, "label"),
        ({"training": {"epoch": 3}}, "epoch"),
        ({"search": {"learning_rate": [1e-2, 1e-3]}}, "a lower and a higher"),
        ({"search": {}, "training": {"learning_rate": 1e-3}}, "a search is to find it"),
        ({"budgets": 5}, "budgets"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(study, change, said):
    with pytest.raises(SpecError, match=said):
        StudySpec.parse(study(**change))


def test_entries_and_seeds_can_be_added_and_nothing_else_changed(study):
    old = StudySpec.parse(study())
    more = StudySpec.parse(study(techniques=["lora", "ia3"], seeds=3))
    assert differences_allowed(old, more) == []
    assert differences_allowed(more, old) == ["techniques.ia3", "seeds.1", "seeds.2"]
    other = StudySpec.parse(study(training={"max_steps": 9}, techniques=[{"name": "lora", "options": {"rank": 2}}]))
    assert differences_allowed(old, other) == ["training", "techniques.lora"]


# the cells ---------------------------------------------------------------------------------------------------------


def test_cells_are_the_whole_grid_and_differ_in_what_they_say(planned):
    found = planned(techniques=["lora", "ia3"], tasks=("first", "second"), seeds=[3, 5])
    assert len({cell.id for cell in found.cells}) == len(found.cells) == 8
    for cell in found.cells:
        pipeline = cell.pipeline
        assert cell.id == f"{cell.technique}.{cell.task}.tiny.seed{cell.seed}"
        assert (pipeline.seed, pipeline.techniques[0].name, pipeline.score_on) == (cell.seed, cell.technique, "test")
        assert pipeline.task.options["train"].endswith(f"{cell.task}.csv")
    assert [len(cells) for cells in found.groups().values()] == [2] * 4


def test_an_entrys_training_wins_over_the_tasks_and_the_studys(planned):
    entry = {"name": "lora", "training": {"learning_rate": 0.5, "warmup": 0.0}}
    cell = planned(techniques=[entry, "ia3"], training={"learning_rate": 0.25, "max_steps": 2}).cells
    assert [one.pipeline.training.learning_rate for one in cell] == [0.5, 0.25]
    assert [one.pipeline.training.warmup for one in cell] == [0.0, 0.06]
    assert {one.pipeline.training.max_steps for one in cell} == {2}


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"techniques": ["lor"]}, UsageError, "lor on first, tiny.*'lora'"),
        ({"techniques": [{"name": "lora", "options": {"rnk": 3}}]}, SpecError, "rank"),
        ({"techniques": [{"name": "lora", "options": {"slots": ["attention.quer"]}}]}, RefarchError, "query"),
        ({"backbones": ["nowhere/at/all"]}, UsageError, "nowhere/at/all"),
        ({"techniques": ["lora", {"name": "lora", "label": "again"}]}, UsageError, "are the same run"),
        ({"search": {"training": {"evaluate_every": 2}}}, UsageError, "either evaluate_every or evaluations"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_runs(planned, change, error, said):
    with pytest.raises(error) as caught:
        planned(**change)
    assert re.search(said, str(caught.value), re.DOTALL)


def test_missing_data_are_found_out_before_anything_runs(planned, tmp_path):
    task = {"name": "text-classification", "options": {"train": str(tmp_path / "none.csv")}}
    with pytest.raises(DataError, match=r"task 'text-classification'.*none\.csv"):
        plan(StudySpec.parse({"techniques": "lora", "tasks": task, "backbones": "minilm"}), Registry())


# the budget --------------------------------------------------------------------------------------------------------


def test_sizes_meet_the_budget_as_counted_by_hand(planned):
    """Rank r on query and value of two layers: 2·2·r·(32+32); a bottleneck m after each layer: 2·(2·32·m + 32 + m)."""
    cells = planned(techniques=["lora", {"name": "adapter", "preset": "pfeiffer"}], budget=1024).cells
    assert cells[0].pipeline.techniques[0].options["rank"] == 4
    assert cells[0].parameters == 2 * 2 * 4 * 64 == 1024
    assert cells[1].pipeline.techniques[0].options["bottleneck"] == 7
    assert cells[1].parameters == 2 * (2 * 32 * 7 + 32 + 7) == 974
    assert [cell.matched for cell in cells] == [True, True]


def test_a_budget_that_cannot_be_met_says_the_nearest(planned):
    techniques = ["lora", "bitfit", {"name": "full", "budget": False}]
    with pytest.raises(BudgetError) as caught:
        planned(techniques=techniques, budget=5000)
    biases = (
        2 * (4 * 32 + 64 + 32 + 2 * 32) + 32 + 32
    )  # of the layers, the embeddings' norm and pooler; the classifier is the head
    assert "lora" not in caught.value.message, "rank 20 has 5,120"
    assert "bitfit on tiny: the nearest to 5,000 is" in caught.value.message
    assert "bitfit has no size to choose" in caught.value.message
    near = planned(techniques=techniques, budget={"parameters": 5000, "otherwise": "nearest"})
    assert [(cell.technique, cell.matched) for cell in near.cells] == [
        ("lora", True),
        ("bitfit", False),
        ("full", None),
    ]
    assert near.cells[1].parameters == biases
    assert near.notes[0].startswith("Off the budget: bitfit on tiny")
    left = planned(techniques=techniques, budget={"parameters": 5000, "otherwise": "leave out"})
    assert [cell.technique for cell in left.cells] == ["lora", "full"]
    assert left.notes[0].startswith("Left out: bitfit on tiny")


def test_the_head_alone_is_counted_with_the_tasks_labels(planned, little, tmp_path):
    lines = (little / "first.csv").read_text().splitlines()
    three = [line.replace("neg", "neither") if i % 3 == 0 else line for i, line in enumerate(lines[1:])]
    (tmp_path / "three.csv").write_text("\n".join([lines[0], *three]) + "\n")
    task = {"name": "text-classification", "options": {"train": str(tmp_path / "three.csv")}}
    assert planned(techniques=["head-only"]).cells[0].parameters == 2 * 33
    spec = StudySpec.parse({"techniques": "head-only", "tasks": task, "backbones": str(little / "model")})
    assert plan(spec, Registry()).cells[0].parameters == 3 * 33


SPEC: TechniqueSpec = default_registry().technique("lora")


@settings(max_examples=100, deadline=None)
@given(
    slope=st.integers(1, 500),
    offset=st.integers(0, 5000),
    multiple=st.sampled_from([1, 2, 3, 4, 12]),
    budget=st.integers(1, 100_000),
    begin=st.integers(1, 64),
)
def test_the_nearest_size_is_the_one_that_trying_all_finds(slope, offset, multiple, budget, begin):
    """Counts grow with the size; only multiples of some number fit, as with heads or Kronecker factors."""
    tried = []

    def count(options):
        size = options["rank"]
        tried.append(size)
        if size % multiple:
            raise SlotError(f"rank must be a multiple of {multiple}")
        return offset + slope * size

    found = nearest(SPEC, {"rank": begin * multiple}, count, budget)
    sizes = range(multiple, max(multiple, budget // slope + 2 * multiple) + 1, multiple)
    assert found.off(budget) == min(abs(offset + slope * size - budget) for size in sizes) / budget
    assert found.value is not None and found.parameters == offset + slope * found.value
    assert len(tried) <= 64 + 40 * multiple


def test_a_technique_that_fits_at_no_size_says_why():
    def count(options):
        raise SlotError("the slot is missing")

    with pytest.raises(SlotError, match="the slot is missing"):
        nearest(SPEC, {}, count, 100)


# the command -------------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_the_cells_and_writes_nothing(study, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(study(techniques=["lora", "ia3"], seeds=2, budget=1000, search={"trials": 3})))
    assert main(["compare", "run", str(file), "--dry-run"]) == 2, "ia3 has no size"
    assert "ia3 on tiny: the nearest to 1,000 is" in capsys.readouterr().err
    file.write_text(yaml.safe_dump(study(techniques=["lora", "ia3"], seeds=2, search={"trials": 3})))
    assert main(["compare", "run", str(file), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "4 runs and 6 trials" in out and "rank=8" in out and "searched" in out
    assert main(["compare", "run", str(file), "--dry-run", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["study"] == "small" and [cell["seed"] for cell in data["cells"]] == [0, 0, 1, 1]
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- lora", "holds a list, but a study is a mapping"),
        ("techniques: [lora", "not valid YAML"),
        ("techniques: [lora]", "tasks"),
    ],
)
def test_a_file_that_is_no_study_is_refused(text, said, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(text)
    assert main(["compare", "run", str(tmp_path / "study.yaml")]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_holds_no_study_is_refused(tmp_path, capsys):
    assert main(["compare", "run", str(tmp_path)]) == 2
    assert "holds no study" in capsys.readouterr().err
    assert main(["compare", "run", str(tmp_path / "none.yaml")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_the_schema_is_printed(capsys):
    assert main(["compare", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"techniques", "tasks", "backbones", "seeds", "budget", "search"} <= schema["properties"].keys()
