import hashlib
import subprocess
import sys

import pytest
import refarch_lexicon_polarity.task as module
import warm
from hypothesis import given, settings, strategies as st
from refarch_lexicon_polarity.task import LexiconPolarity, is_expression, short_words, stem

from refarch.architecture import TrainingSpec
from refarch.errors import DataError
from refarch.plugins import default_registry, resolve

SPEC = default_registry().task("lexicon-polarity")


def read(seed=0, **options):
    task = resolve(SPEC.implementation)(**SPEC.configure(options))
    task.read(seed)
    return task


def parts(task):
    return [list(part.texts) for part in (task.splits.train, task.splits.validation, task.splits.test)]


def first_five_letters(text):
    return "".join(filter(str.isalpha, text.lower()))[:5]


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_no_stem_is_in_two_splits(split_seed):
    splits = parts(read(split_seed=split_seed))
    stems = [{first_five_letters(text) for text in part} for part in splits]
    assert sum(map(len, stems)) == len(set.union(*stems))
    # A shorter word is with all that begin with it: "win" with "winner".
    shorter = [{found for found in part if len(found) < 5} for part in stems]
    begun = [{found[:length] for found in part for length in (3, 4)} for part in stems]
    assert not any(shorter[a] & begun[b] for a in range(3) for b in range(3) if a != b)


def test_sizes_labels_and_baseline():
    task = read()
    assert [len(part) for part in parts(task)] == [5158, 732, 1293]
    assert task.model_arguments()["id2label"] == {0: "negative", 1: "positive"}
    assert task.baselines()["majority"] == pytest.approx(0.565, abs=0.001)
    words = dict(zip(task.splits.train.texts, task.splits.train.labels, strict=True))
    words.update(zip(task.splits.test.texts, task.splits.test.labels, strict=True))
    words.update(zip(task.splits.validation.texts, task.splits.validation.labels, strict=True))
    assert words["excellent"] == "positive"
    assert words["disaster"] == "negative"
    assert words["can't stand"] == "negative"
    assert words["lol"] == "positive"  # rated twice, kept once
    assert not {"xd", "x-d", ":)"} & words.keys()
    assert all(is_expression(word) for word in words)


def test_the_split_is_the_same_for_every_run_seed():
    assert parts(read(1)) == parts(read(2))
    assert parts(read(1, split_seed=7)) != parts(read(1))


def test_the_default_split_never_changes():
    """Scores of different versions stay comparable."""
    digest = hashlib.sha256("\n".join(parts(read())[2]).encode()).hexdigest()
    assert digest[:16] == "c85b9b7d4a023e77"


def test_weak_words_can_be_left_out():
    strong = sum(map(len, parts(read(minimum_strength=0.5))))
    assert 6000 < strong < sum(map(len, parts(read())))


@pytest.mark.parametrize("token", [":)", "d:", "x-d", "xd", "<3", "sweet<3", "8)", "-", "o.o", "'", ""])
def test_emoticons_are_no_words(token):
    assert not is_expression(token)


@pytest.mark.parametrize("token", ["good", "can't stand", "well-being", "LOL", "fed up"])
def test_words_and_expressions(token):
    assert is_expression(token)


def test_inflections_share_a_stem():
    roots = short_words(["win", "wins", "winner", "happy", "sad"])
    assert {stem(word, roots) for word in ("win", "wins", "winner", "winning")} == {"win"}
    assert stem("happiest", roots) == stem("happily", roots) == "happi"
    assert stem("can't stand") == "cants"


def test_the_spec_needs_no_torch():
    code = """
import sys, refarch_lexicon_polarity as m
m.refarch_tasks()
print([n for n in ("torch", "transformers", "sklearn", "numpy") if n in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_analyzer_is_not_imported(tmp_path):
    code = """
import sys
from refarch_lexicon_polarity.task import lexicon
print(lexicon().name, "vaderSentiment" in sys.modules)
"""
    done = warm.run(["-c", code], tmp_path)
    assert done.stdout.strip() == "vader_lexicon.txt False", done.stderr


def test_the_training_defaults_are_fields_of_the_training_spec():
    assert TrainingSpec.parse(SPEC.training)


def test_a_broken_lexicon_says_so(tmp_path, monkeypatch):
    path = tmp_path / "vader_lexicon.txt"
    monkeypatch.setattr(module, "lexicon", lambda: path)
    path.write_text(":)\t2.0\t0.1\t[]\n")
    with pytest.raises(DataError, match=r"holds no words[\s\S]*pip install"):
        LexiconPolarity().read(0)
    path.write_text("good\t2.0\t0.1\t[]\nbad\tx\n")
    with pytest.raises(DataError, match=r"line 2: no mean rating after 'bad'"):
        LexiconPolarity().read(0)


def test_a_missing_package_says_so(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"vaderSentiment[\s\S]*pip install"):
        module.lexicon()
