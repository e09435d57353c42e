import csv
import json

import pytest
from refarch_text_classification import OPTIONS, SPEC, TextClassification

from refarch.errors import DataError, SpecError, UsageError

ROWS = [(f"good film number {i}", "pos") for i in range(30)] + [(f"bad film number {i}", "neg") for i in range(20)]


def write_csv(path, rows=ROWS, header=("text", "label")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def write_jsonl(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def read(seed=0, **options):
    task = TextClassification(**options)
    task.read(seed)
    return task


def fails(*parts, error=DataError, **options):
    with pytest.raises(error) as caught:
        read(**options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert caught.value.hint


def texts(task):
    parts = task.splits
    return [set(part.texts) if part is not None else set() for part in (parts.train, parts.validation, parts.test)]


def test_splits_are_made_in_proportion_and_cover_everything(tmp_path):
    task = read(train=write_csv(tmp_path / "a.csv"))
    train, validation, test = texts(task)
    assert (len(train), len(validation), len(test)) == (35, 5, 10)
    assert train | validation | test == {text for text, _ in ROWS}
    assert list(task.splits.test.labels).count("pos") == 6
    assert list(task.splits.validation.labels).count("pos") == 3


def test_splits_depend_on_the_seed_alone(tmp_path):
    path = write_csv(tmp_path / "a.csv")
    assert texts(read(1, train=path)) == texts(read(1, train=path))
    assert texts(read(1, train=path)) != texts(read(2, train=path))
    assert texts(read(1, train=path, split_seed=5)) == texts(read(2, train=path, split_seed=5))


def test_given_splits_are_kept_as_they_are(tmp_path):
    files = {
        name: write_csv(tmp_path / f"{name}.csv", [(f"{name} a", "x"), (f"{name} b", "y")])
        for name in ("train", "test")
    }
    task = read(**files, validation_size=0)
    assert list(task.splits.test.texts) == ["test a", "test b"]
    assert list(task.splits.train.texts) == ["train a", "train b"]
    assert task.splits.validation is None


def test_a_made_validation_split_leaves_the_given_test_alone(tmp_path):
    test = write_csv(tmp_path / "test.csv", [("one", "pos"), ("two", "neg")])
    task = read(train=write_csv(tmp_path / "a.csv"), test=test, validation_size=0.2)
    assert [len(part) for part in texts(task)] == [40, 10, 2]


def test_equal_texts_stay_in_one_split(tmp_path):
    rows = [(f"text {i // 4}" if i % 2 else f"Text  {i // 4}", "ab"[i // 4 % 2]) for i in range(200)]
    parts = [
        {" ".join(text.lower().split()) for text in part}
        for part in texts(read(train=write_csv(tmp_path / "a.csv", rows)))
    ]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == 50


def test_limits_draw_from_each_label_in_proportion(tmp_path):
    task = read(train=write_csv(tmp_path / "a.csv"), train_limit=10, test_limit=5)
    assert sorted(task.splits.train.labels) == ["neg"] * 4 + ["pos"] * 6
    assert sorted(task.splits.test.labels) == ["neg"] * 2 + ["pos"] * 3


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", " a ", "c"], ["a", "b", "c"]),
        (["10", "2", "-1"], ["-1", "2", "10"]),
        (["10", "2", "x"], ["10", "2", "x"]),
        (["01", "1", "2"], ["01", "1", "2"]),
    ],
)
def test_label_names_are_kept_and_ordered(tmp_path, labels, names):
    rows = [(f"text {i}", label) for i, label in enumerate(labels * 5)]
    arguments = read(train=write_csv(tmp_path / "a.csv", rows)).model_arguments()
    assert arguments["num_labels"] == 3
    assert arguments["id2label"] == dict(enumerate(names))
    assert arguments["label2id"] == {name: i for i, name in enumerate(names)}


def test_jsonl_numbers_truth_values_and_whole_floats_are_labels(tmp_path):
    rows = [{"text": f"t{i}", "label": [2, 10.0][i % 2]} for i in range(20)]
    assert read(train=write_jsonl(tmp_path / "a.jsonl", rows)).splits.names == ["2", "10"]
    rows = [{"text": f"t{i}", "label": bool(i % 2)} for i in range(20)]
    assert read(train=write_jsonl(tmp_path / "b.jsonl", rows)).splits.names == ["False", "True"]


def test_tsv_and_parquet_and_other_columns(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"review": [text for text, _ in ROWS], "stars": [len(label[0:1]) + i % 2 for i, (_, label) in enumerate(ROWS)]}
    )
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    for name in ("a.parquet", "a.tsv"):
        task = read(train=str(tmp_path / name), text_column="review", label_column="stars")
        assert task.splits.names == ["1", "2"]


def test_baseline_is_the_majority_of_train_measured_on_test(tmp_path):
    train = write_csv(tmp_path / "a.csv", [("a", "x"), ("b", "x"), ("c", "y")])
    test = write_csv(tmp_path / "b.csv", [("d", "x"), ("e", "y"), ("f", "y"), ("g", "y")])
    assert read(train=train, test=test, validation_size=0).baselines() == {"majority": 0.25}


def test_bad_rows_are_named_by_file_and_line(tmp_path):
    good = ROWS[:3]
    fails("a.csv, line 5: no label", train=write_csv(tmp_path / "a.csv", [*good, ("text", " ")]))
    fails("a.csv, line 5: no text", train=write_csv(tmp_path / "a.csv", [*good, ("  ", "pos")]))
    fails(
        "b.jsonl, line 2: no label", train=write_jsonl(tmp_path / "b.jsonl", [{"text": "a", "label": 1}, {"text": "b"}])
    )
    fails("b.jsonl, line 1: no text", train=write_jsonl(tmp_path / "b.jsonl", [{"text": None, "label": 1}]))
    fails("should hold text, but has 5", train=write_jsonl(tmp_path / "b.jsonl", [{"text": 5, "label": 1}]))
    fails("has 0.5", train=write_jsonl(tmp_path / "b.jsonl", [{"text": "a", "label": 0.5}]))
    fails("no label", train=write_jsonl(tmp_path / "b.jsonl", [{"text": "a", "label": float("nan")}]))
    fails("has ['x']", train=write_jsonl(tmp_path / "b.jsonl", [{"text": "a", "label": ["x"]}]))


def test_a_label_that_train_lacks_is_named_by_file_and_line(tmp_path):
    test = write_csv(tmp_path / "test.csv", [("a", "pos"), ("b", "pso")])
    fails("test.csv, line 3", "'pso'", "did you mean 'pos'", train=write_csv(tmp_path / "a.csv"), test=test)
    fails("test.csv, line 3", "'pso'", train=write_csv(tmp_path / "a.csv"), validation=test)
    fails("test.csv, line 3", "'pso'", train=write_csv(tmp_path / "a.csv"), test=test, test_limit=1)


def test_one_label_is_not_enough(tmp_path):
    fails("have the label 'pos'", "two at least", train=write_csv(tmp_path / "a.csv", ROWS[:30]))


def test_too_few_rows_for_a_test_split(tmp_path):
    fails("too few", "set test", train=write_csv(tmp_path / "a.csv", [("a", "x"), ("b", "y")]))


@pytest.mark.parametrize(
    "content", [b"", b"text,label\n", b"text,label\na\n", b"text,label\n\xff,x\n", b"words,label\na,b\n"]
)
def test_broken_files_name_themselves(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    fails("a.csv", train=str(tmp_path / "a.csv"))


def test_missing_files_suffixes_and_sources(tmp_path):
    fails("does not exist", train=str(tmp_path / "gone.csv"))
    fails("'.docx'", train=str(tmp_path / "a.docx"))
    fails("has no data", error=UsageError)
    fails("config belongs to a dataset", error=UsageError, train=write_csv(tmp_path / "a.csv"), config="x")
    fails("text_colum", "text_column", error=SpecError, train="a.csv", text_colum="x")


def test_reading_comes_first():
    with pytest.raises(RuntimeError, match="read"):
        TextClassification(train="a.csv").model_arguments()


def test_the_spec_and_the_class_declare_the_same_options():
    assert SPEC.options == TextClassification.declared == OPTIONS
    assert set(SPEC.configure({})) == set(TextClassification().options)


class TestDatasets:
    """The ``dataset`` option, on folders: nothing is downloaded."""

    @pytest.fixture
    def saved(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["world", "art"])}
        )

        def part(count, **changes):
            rows = {"text": [f"text {i}" for i in range(count)], "label": [i % 2 for i in range(count)], **changes}
            return datasets.Dataset.from_dict(rows, features=features)

        whole = datasets.DatasetDict({"train": part(20), "dev": part(4), "test": part(6, label=[-1] * 6)})
        whole.save_to_disk(str(tmp_path / "saved"))
        return str(tmp_path / "saved")

    def test_class_label_names_keep_their_order(self, saved):
        task = read(dataset=saved, test="dev", validation_size=0)
        assert task.model_arguments()["id2label"] == {0: "world", 1: "art"}
        assert [len(part) for part in texts(task)] == [20, 0, 4]

    def test_a_split_without_labels_is_refused(self, saved):
        fails("saved[test], row 1: no label", "name another", dataset=saved)

    def test_unknown_splits_and_columns_name_the_nearest(self, saved):
        fails("no split 'tets'", "did you mean 'test'", dataset=saved, test="tets")
        fails("no column 'txt'", "did you mean 'text'", dataset=saved, test="dev", text_column="txt")

    def test_a_folder_of_files(self, tmp_path):
        folder = tmp_path / "data"
        folder.mkdir()
        write_csv(folder / "train.csv")
        task = read(dataset=str(folder))
        assert [len(part) for part in texts(task)] == [35, 5, 10]

    def test_what_cannot_be_loaded_is_a_data_error(self, tmp_path):
        (tmp_path / "empty").mkdir()
        fails("cannot be loaded", dataset=str(tmp_path / "empty"))
