"""A task on tables reads what its options name and makes the splits that are missing."""

from pathlib import Path
from typing import Any

import pytest

from refarch import SOURCE_OPTIONS, SPLIT_OPTIONS, Option
from refarch.errors import DataError, SpecError
from refarch.tasks import Items, ItemTask, read_source, text_of


class Words(ItemTask[Items[str]]):
    """Words, of which those with one first letter stay together."""

    declared = (*SOURCE_OPTIONS, Option(name="id_column", type="string", help="identifiers"), *SPLIT_OPTIONS)

    def given(self) -> dict[str, Items[str]]:
        tables = read_source(self.options, "words", default_id="id").tables
        return {
            name: Items([text_of(table, index, "word") for index in range(len(table))], table.path)
            for name, table in tables.items()
        }

    def groups(self, examples: Items[str]) -> list[str]:
        return [word[0] for word in examples.items]

    model_arguments = encode = collator = metrics = lambda *_: None  # type: ignore[assignment]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "words.csv"
    path.write_text("word,key\n" + "".join(f"{first}{n},{first}{n}\n" for first in "abcdefghij" for n in range(3)))
    return path


def words(seed: int, path: Path, **options: Any) -> dict[str, list[str]]:
    task = Words(train=str(path), **options)
    task.read(seed)
    return {name: list(part.items) for name, part in task.splits.items()}


def test_splits_are_made_of_whole_groups_by_the_seed_alone(rows: Path) -> None:
    made = words(3, rows)
    assert {name: len(part) for name, part in made.items()} == {"train": 21, "validation": 3, "test": 6}
    firsts = [{word[0] for word in part} for part in made.values()]
    assert sum(map(len, firsts)) == 10
    assert made == words(3, rows) == words(7, rows, split_seed=3) != words(4, rows)


def test_splits_that_the_source_has_stay(rows: Path) -> None:
    made = words(3, rows, test=str(rows), validation_size=0)
    assert made.keys() == {"train", "test"} and made["train"] == made["test"]


def test_labels_are_the_same_for_all_unless_a_task_says_otherwise(rows: Path) -> None:
    task = Words(train=str(rows))
    assert task.labels(Items(["a", "b"], "here")) == ["", ""]


def test_options_are_checked_and_reading_comes_first(rows: Path) -> None:
    with pytest.raises(SpecError, match=r"Words.*trian.*\n.*'train'"):
        Words(trian="a.csv")
    assert Words().options["test_size"] == 0.2
    with pytest.raises(RuntimeError, match=r"call read\(seed\) first"):
        _ = Words(train=str(rows)).splits


def test_identifiers_are_each_rows_own(rows: Path) -> None:
    assert words(3, rows, id_column="key") == words(3, rows) == words(3, rows, id_column="id")
    with pytest.raises(DataError, match="no column 'keys'"):
        words(3, rows, id_column="keys")
    rows.write_text(rows.read_text() + "k,a0\n")
    with pytest.raises(DataError, match=r"line 32: key 'a0' stands already at .*line 2"):
        words(3, rows, id_column="key")
