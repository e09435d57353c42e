"""Pairs of texts, numbers to predict, and the presets of GLUE and SuperGLUE on local copies."""

import csv
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from refarch_text_classification import OPTIONS, REGRESSION, SPEC, TextClassification, presets
from refarch_text_classification.regression import TextRegression
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score
from transformers import BertConfig, BertForSequenceClassification

from refarch import default_registry
from refarch.errors import DataError
from refarch.plugins import resolve
from refarch.tasks import load_dataset
from refarch.testing import TaskConformance, tiny_tokenizer

STSB = Path(__file__).resolve().parents[5] / "shared" / "data" / "stsb"
PAIRS = [(f"a man eats dish {i}", f"dish {i} is {'eaten' if i % 2 else 'washed'}", i % 2, i / 4) for i in range(40)]
HEADER = ("first", "second", "same", "score")


def write(path, rows=PAIRS, header=HEADER):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


class TestPairs(TaskConformance):
    task = "text-classification"

    @classmethod
    def prepare(cls, folder):
        columns = {"text_column": "first", "pair_column": "second", "label_column": "same"}
        return {"train": write(folder / "pairs.csv"), **columns}


class TestRegression(TaskConformance):
    task = "text-regression"

    @classmethod
    def prepare(cls, folder):
        columns = {"text_column": "first", "pair_column": "second", "label_column": "score"}
        return {"train": write(folder / "pairs.csv"), **columns}


def pair_task(tmp_path, cls=TextClassification, rows=PAIRS, **options):
    columns = {"text_column": "first", "pair_column": "second", "label_column": "same"}
    return cls(train=write(tmp_path / "pairs.csv", rows), **{**columns, **options})


def test_both_texts_are_encoded_and_the_longer_one_is_cut(tmp_path):
    long = [(f"{'x ' * 5}", "y " * (60 + i), i % 2, 0.0) for i in range(10)]
    task = pair_task(tmp_path, rows=[*PAIRS, *long], max_length=40)
    task.read(0)
    tokenizer = tiny_tokenizer()
    data = task.encode(tokenizer)
    rows = [*data.train, *data.test, *data.validation]
    assert len(rows) == 50
    cut = [row for row in rows if len(row["input_ids"]) == 40 and "xxxxx" in shown(tokenizer, row)]
    assert len(cut) == 10, [shown(tokenizer, row) for row in rows if len(row["input_ids"]) == 40]
    assert all(row["input_ids"].count(tokenizer.sep_token_id) == 2 for row in rows)


def shown(tokenizer, row):
    return tokenizer.decode(row["input_ids"]).replace(" ", "").replace("##", "")


def test_equal_pairs_stay_in_one_split(tmp_path):
    rows = [(f"text {i // 4}", f"other {i // 4}", i % 2, 0.0) for i in range(60)]
    task = pair_task(tmp_path, rows=rows)
    task.read(0)
    parts = [{part.whole(i) for i in range(len(part))} for part in (task.splits.train, task.splits.test)]
    assert parts[0].isdisjoint(parts[1])


def test_texts_of_two_columns_are_joined_and_each_is_checked(tmp_path):
    task = pair_task(tmp_path, pair_column="second+first")
    task.read(0)
    first = task.splits.test
    assert [pair.split(" a man")[1] for pair in first.pairs] == [text.removeprefix("a man") for text in first.texts]
    with pytest.raises(DataError, match=r"pairs\.csv has no column 'third'"):
        pair_task(tmp_path, pair_column="second+third").read(0)
    path = write(tmp_path / "plus.csv", [(text, label) for text, _, label, _ in PAIRS], ("a+b", "label"))
    TextClassification(train=path, text_column="a+b").read(0)  # a column of that name is itself


def test_a_missing_second_text_is_named_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"pairs.csv, line 3: no text in column 'second'"):
        pair_task(tmp_path, rows=[PAIRS[0], ("a", " ", 0, 0.0), *PAIRS[1:]]).read(0)


def test_two_rows_of_one_identifier_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"line 3: first 'a' stands already at .*line 2"):
        pair_task(tmp_path, rows=[("a", "b", 0, 0.0), ("a", "c", 1, 1.0)], id_column="first").read(0)


def test_f1_is_that_of_the_second_label(tmp_path):
    task = pair_task(tmp_path)
    task.read(0)
    labels, best = np.array([0, 1, 1, 0, 1, 0]), np.array([0, 1, 0, 1, 1, 0])
    found = task.metrics(np.eye(2)[best], labels)
    assert found["f1"] == pytest.approx(f1_score(labels, best)) == pytest.approx(2 / 3)


def test_regression_measures_correlation(tmp_path):
    task = pair_task(tmp_path, TextRegression, label_column="score")
    task.read(0)
    assert task.model_arguments() == {"num_labels": 1, "problem_type": "regression"}
    predictions, labels = np.array([[0.1], [0.9], [0.5], [0.6]]), np.array([1.0, 4.0, 2.0, 5.0])
    found = task.metrics(predictions, labels)
    assert found["pearson"] == pytest.approx(pearsonr(predictions[:, 0], labels).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(predictions[:, 0], labels).statistic)
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((predictions[:, 0] - labels) ** 2)))
    assert task.metrics(np.ones((4, 1)), labels)["pearson"] == 0.0


@pytest.mark.parametrize("wrong", ["high", "nan", ""])
def test_a_label_that_is_no_number_is_named_with_its_line(tmp_path, wrong):
    with pytest.raises(DataError, match=r"pairs.csv, line 3: column 'score' should hold a number"):
        rows = [PAIRS[0], ("a", "b", 0, wrong), *PAIRS[1:]]
        pair_task(tmp_path, TextRegression, rows=rows, label_column="score").read(0)


def glue_folder(root, spec, how):
    """A local copy with the columns of the set on the hub."""
    names = {"text": spec.defaults["text_column"], "pair": spec.defaults.get("pair_column")}
    numbers = spec.name == "glue-stsb"
    label = datasets.Value("float32") if numbers else datasets.ClassLabel(names=["no", "yes"])
    columns = {"label": [i % 2 for i in range(30)]}
    for name in (f"{names['text']}+{names['pair'] or names['text']}").split("+"):
        columns[name] = [f"{name} {i}" for i in range(30)]
    features = datasets.Features({name: label if name == "label" else datasets.Value("string") for name in columns})
    data = datasets.Dataset.from_dict(columns, features)
    splits = datasets.DatasetDict({"train": data, spec.defaults["test"]: data})
    if how == "saved":
        splits.save_to_disk(str(root / spec.defaults["config"]))
    else:
        for name, part in splits.items():
            part.to_csv(root / f"{name.partition('_')[0]}.csv")
    return str(root)


@pytest.mark.parametrize("name", [spec.name for spec in presets(SPEC, REGRESSION)])
def test_presets_read_a_local_copy(tmp_path, name):
    spec = default_registry().task(name)
    assert spec.kind == "preset" and spec.data_licence and spec.reference
    task = resolve(spec.implementation)(**spec.configure({"dataset": glue_folder(tmp_path, spec, "saved")}))
    task.read(0)
    assert len(task.splits.test) == 30 and task.splits.test.source.endswith(f"[{spec.defaults['test']}]")
    task.metric = spec.metric
    expected = {"accuracy": 0.5, "f1": 0.0, "macro_f1": 1 / 3, "matthews": 0.0, "pearson": 0.0}[spec.metric]
    assert list(task.baselines().values()) == [pytest.approx(expected)]
    if name != "glue-stsb":
        assert task.splits.names == ["no", "yes"]
    first = task.splits.test
    assert first.texts[0] == " ".join(f"{name} 0" for name in spec.defaults["text_column"].split("+"))
    if first.pairs is not None:
        assert first.pairs[0] == " ".join(f"{name} 0" for name in spec.defaults["pair_column"].split("+"))


def test_a_folder_of_files_is_a_local_copy_too(tmp_path):
    spec = default_registry().task("glue-mrpc")
    task = TextClassification(**spec.configure({"dataset": glue_folder(tmp_path, spec, "files")}))
    task.read(0)
    assert len(task.splits.test) == 30


def test_a_set_that_cannot_be_reached_says_how_to_use_a_copy():
    with pytest.raises(DataError) as caught:
        load_dataset("nyu-mll/glue", "mrpc")
    assert "dataset=FOLDER" in str(caught.value.hint)


@pytest.mark.skipif(not STSB.is_dir(), reason="needs ../shared/data/stsb")
def test_the_sts_benchmark_itself(tmp_path):
    paths = {}
    for split, file in (("train", "sts-train"), ("test", "sts-dev")):
        lines = (STSB / f"{file}.csv").read_text(encoding="utf-8").splitlines()
        rows = [line.split("\t")[4:7] for line in lines]
        paths[split] = write(tmp_path / f"{split}.csv", rows, ("score", "one", "two"))
    task = TextRegression(**paths, text_column="one", pair_column="two", label_column="score")
    task.read(0)
    assert len(task.splits.test) == 1500
    assert len(task.splits.train) + len(task.splits.validation) == 5749
    assert 0.0 <= min(task.targets(task.splits.test, [])) <= max(task.targets(task.splits.test, [])) <= 5.0
    assert {option.name for option in OPTIONS} >= {"pair_column", "id_column"}


@pytest.mark.parametrize("kind", [TextClassification, TextRegression])
def test_new_pairs_are_answered_as_pairs_without_reading_any_data(kind):
    tokenizer = tiny_tokenizer()
    labels = {"num_labels": 1} if kind is TextRegression else {"id2label": {0: "no", 1: "yes"}}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, **labels)
    model = BertForSequenceClassification(config).eval()
    pairs = [("a b", "c"), ("d", "e f g h")]
    with torch.no_grad():
        answers = kind(train="not read", max_length=6).ask(model, tokenizer, pairs, 1)
        encoded = [tokenizer(*pair, truncation=True, max_length=6, return_tensors="pt") for pair in pairs]
        logits = torch.cat([model(**each).logits for each in encoded])
    if kind is TextRegression:
        assert [answer["value"] for answer in answers] == pytest.approx(logits[:, 0].tolist(), abs=1e-5)
    else:
        scores = [list(answer["scores"].values()) for answer in answers]
        np.testing.assert_allclose(scores, logits.softmax(dim=-1).numpy(), atol=1e-5)
        assert [answer["label"] for answer in answers] == ["yes" if no < yes else "no" for no, yes in scores]
    with pytest.raises(DataError, match="some texts are pairs and some are not"):
        kind(train="not read").ask(model, tokenizer, ["a", ("b", "c")], 2)
