"""Data sets of the datasets library: which split is what, names of labels, revisions."""

import datasets
import pytest

from refarch.errors import DataError, UsageError
from refarch.tasks.sources import load_dataset, read_source, require_unique
from refarch.tasks.tables import Table

OPTIONS = dict.fromkeys(("train", "validation", "test", "dataset", "config"))


@pytest.fixture
def folder(tmp_path):
    tags = datasets.Features(
        {"tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-x"])), "n": datasets.Value("int64")}
    )
    parts = {
        name: datasets.Dataset.from_dict({"tags": [[0, 1]] * count, "n": list(range(count))}, features=tags)
        for name, count in (("train", 5), ("validation", 3))
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    return str(tmp_path / "set")


def read(folder, **options):
    return read_source({**OPTIONS, "dataset": folder, **options}, "a-task")


def sizes(source):
    return {name: len(table) for name, table in source.tables.items()}


def test_splits_by_their_names(folder):
    assert sizes(read(folder)) == {"train": 5, "validation": 3}
    assert read(folder).label_names("tags") == ["O", "B-x"]
    assert read(folder).label_names("n") is None


def test_a_split_that_is_named_for_one_part_is_not_another(folder):
    assert sizes(read(folder, train="validation")) == {"train": 3}
    assert sizes(read(folder, test="validation")) == {"train": 5, "test": 3}
    assert sizes(read(folder, test="validation", validation="validation")) == {"train": 5, "validation": 3, "test": 3}


def test_an_unknown_split_is_named(folder):
    with pytest.raises(DataError, match=r"no split 'valid'[\s\S]*did you mean 'validation'"):
        read(folder, test="valid")


def test_a_revision_is_passed_on(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **named: asked.append((given, named)) or {"train": []})
    load_dataset("owner/name@refs/convert/parquet", "config")
    load_dataset("owner/name@main", "config")
    load_dataset("owner/name", None)
    assert asked == [
        (("owner/name",), {"data_dir": "config", "revision": "refs/convert/parquet"}),
        (("owner/name",), {"name": "config", "revision": "main"}),
        (("owner/name",), {"name": None, "revision": None}),
    ]


def test_files_win_over_a_presets_data_set(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "b.own").write_text("")
    preset = {"dataset": "owner/name", "config": "one", "test": "validation"}
    assert sizes(read_source({**OPTIONS, **preset, "train": str(tmp_path / "a.jsonl")}, "a-task")) == {"train": 2}
    own = {".own": lambda path: Table(path, {"x": [1]}, [1])}
    assert sizes(read_source({**OPTIONS, **preset, "train": str(tmp_path / "b.own")}, "a-task", own)) == {"train": 1}
    with pytest.raises(UsageError, match="config belongs to a dataset"):
        read_source({**OPTIONS, "config": "one", "train": str(tmp_path / "a.jsonl")}, "a-task")
    with pytest.raises(UsageError, match="has no data"):
        read_source(OPTIONS, "a-task")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "a"], r"^a\.csv, line 4: id 'a' stands already at a\.csv, line 2"),
        (["a", None, None], r"^a\.csv, line 3: no identifier in column 'id'"),
        (["a", "b", " "], r"^a\.csv, line 4: no identifier in column 'id'"),
        ([1, 2, [3]], r"^a\.csv, line 4: an identifier is text or a number, but column 'id' has \[3\]"),
    ],
)
def test_each_row_has_an_identifier_of_its_own(ids, message):
    require_unique(Table("a.csv", {"id": [1, "1", "b"]}, [2, 3, 4]), "id")
    with pytest.raises(DataError, match=message):
        require_unique(Table("a.csv", {"id": ids}, [2, 3, 4]), "id")
