import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics
from refarch_text_classification import TextClassification
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from refarch.errors import DataError, RunError
from refarch.plugins import default_registry, resolve


def tokenizer(**special):
    words = ["[PAD]", "[UNK]", "<eos>", *[f"w{i}" for i in range(20)]]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", **special)


@pytest.fixture
def task(tmp_path):
    rows = [{"text": " ".join(f"w{j}" for j in range(i % 5 + 1)) + f" x{i}", "label": "ab"[i % 2]} for i in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = TextClassification(train=str(tmp_path / "a.jsonl"), max_length=4)
    task.read(0)
    return task


def test_registry_gives_the_task_without_torch():
    spec = default_registry().task("text-classification")
    assert resolve(spec.implementation) is TextClassification
    code = """
import sys, refarch_text_classification as m
m.refarch_tasks(), m.OPTIONS
print([n for n in ("torch", "transformers", "sklearn", "datasets", "numpy") if n in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rows_are_cut_and_batches_are_padded_to_their_longest(task, caplog):
    tok = tokenizer(pad_token="[PAD]")
    with caplog.at_level("INFO"):
        data = task.encode(tok)
    assert "max_length=4" in caplog.text
    assert max(len(row["input_ids"]) for row in data.train) == 4
    assert len(data.train) + len(data.validation) + len(data.test) == 30
    short = [row for row in data.train if len(row["input_ids"]) <= 3][:2]
    batch = pickle.loads(pickle.dumps(task.collator(tok)))(short)
    longest = max(len(row["input_ids"]) for row in short)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, longest)
    assert batch["labels"].tolist() == [row["labels"] for row in short]


@pytest.mark.parametrize("first", ["encode", "collator"])
def test_a_tokenizer_without_pad_token_pads_with_its_end_of_text(task, first):
    tok = tokenizer(eos_token="<eos>")
    getattr(task, first)(tok)
    assert tok.pad_token == "<eos>"
    batch = task.collator(tok)([{"input_ids": [3], "labels": 0}, {"input_ids": [3, 4], "labels": 1}])
    assert batch["input_ids"].tolist() == [[3, 2], [3, 4]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]


def test_a_tokenizer_with_neither_is_refused(task):
    with pytest.raises(DataError, match="neither a pad token"):
        task.encode(tokenizer())


def test_metrics_by_hand(task):
    """Answers 1 1 0 0 for labels 1 0 0 0: one true positive, one false positive, two true negatives."""
    logits = np.array([[0.0, 2.0], [0.0, 1.0], [3.0, 0.0], [1.0, 0.0]])
    got = task.metrics(logits, np.array([1, 0, 0, 0]))
    assert got["accuracy"] == pytest.approx(3 / 4)
    # F1 of label 1: precision 1/2, recall 1 -> 2/3. F1 of label 0: precision 1, recall 2/3 -> 4/5.
    assert got["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    # (TP TN - FP FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN)) = 2 / sqrt(2 * 1 * 3 * 2)
    assert got["matthews"] == pytest.approx(2 / 12**0.5)


def test_metrics_as_scikit_learn(task):
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(200, 4)), random.integers(0, 4, 200)
    got = task.metrics(logits, labels)
    best = logits.argmax(1)
    assert got["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, best))
    assert got["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(labels, best, average="macro"))
    assert got["matthews"] == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, best))
    assert task.metrics((logits, None), labels) == got  # a model with several outputs


def test_outputs_that_are_not_finite_are_not_scored(task):
    with pytest.raises(RunError, match="not finite"):
        task.metrics(np.array([[np.nan, 1.0]]), np.array([1]))
