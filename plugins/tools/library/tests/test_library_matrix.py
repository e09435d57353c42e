"""The transfer matrix: scores of modules on tasks, as plain runs of these would have them."""

import json
from xml.etree import ElementTree

import pytest
from refarch_library import adding
from refarch_library.finding import find
from refarch_library.transfer.matrix import transfer_matrix

from refarch import RunRecord, default_registry
from refarch.errors import UsageError
from refarch.files import read_json


@pytest.fixture
def filled(library, make_run):
    for name, task, technique, more in (
        ("a", "polarity", "lora", {}),
        ("b", "polarity", "ia3", {}),
        ("c", "topic", "adapter", {}),
        ("d", "names", "adapter", {"max_steps": 30}),
    ):
        adding.add(library, make_run(task, technique, **more), name=name)
    return library


def test_own_tasks_score_as_the_runs_did_and_what_does_not_fit_is_said(filled, make_run):
    matrix = transfer_matrix([find(name, filled) for name in "abcd"], default_registry())
    assert matrix.tasks == ["text-classification:polarity", "text-classification:topic", "token-classification:names"]
    assert matrix.metrics == ["accuracy", "accuracy", "f1"]
    assert matrix.own == [[True, False, False], [True, False, False], [False, True, False], [False, False, True]]
    for row, (task, technique) in enumerate([("polarity", "lora"), ("polarity", "ia3"), ("topic", "adapter")]):
        record = RunRecord.parse(read_json(make_run(task, technique) / "record.json"))
        assert matrix.scores[row][matrix.own[row].index(True)] == pytest.approx(record.score)
        assert matrix.scores[row].count(None) == 2
    assert matrix.reasons[0][1] == "it does not fit: its head's labels are bad, good, the task's art, law, war"
    assert matrix.reasons[0][0] == "" and "labels are" in matrix.reasons[3][0]


def test_other_names_of_as_many_labels_are_scored_if_asked_for(filled):
    found = [find("a", filled)]
    task = ["lexicon-polarity"]
    strict = transfer_matrix(found, default_registry(), tasks=task, limit=20)
    assert strict.scores[0][1] is None and "bad, good, the task's negative, positive" in strict.reasons[0][1]
    loose = transfer_matrix(found, default_registry(), tasks=task, limit=20, any_labels=True)
    assert 0 <= loose.scores[0][1] <= 1 and loose.scores[0][1] * 20 == pytest.approx(round(loose.scores[0][1] * 20))


def test_the_command_writes_a_table_json_and_a_picture(filled, refarch, tmp_path):
    code, out, _ = refarch(
        "library", "transfer-matrix", "a", "c", "--svg", tmp_path / "m.svg", "--out", tmp_path / "m.json"
    )
    assert code == 0 and " *" in out and "text-classification:topic" in out
    data = json.loads((tmp_path / "m.json").read_text())
    assert data["entries"] == ["a", "c"] and data["scores"][0][1] is None
    root = ElementTree.fromstring((tmp_path / "m.svg").read_text())
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert f"{data['scores'][0][0]:.3f}" in texts and texts.count("–") == 2
    assert sum(element.get("class") == "own" for element in root.iter()) == 2
    code, out, _ = refarch("library", "transfer-matrix", "a", "--json")
    assert code == 0 and json.loads(out)["format"] == 1


def test_nothing_to_score_is_an_error(library):
    with pytest.raises(UsageError, match="no entry to score"):
        transfer_matrix([], default_registry())
