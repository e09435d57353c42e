"""Exact match and F1: published examples, and a plain implementation written apart from the plugin's."""

import re
import string

import pytest
from hypothesis import given, strategies as st
from refarch_question_answering.squad import exact, normalized, overlap, score


def test_the_examples_of_the_metrics_page_of_evaluate():
    """From the documentation of the metric ``squad`` in Hugging Face's evaluate: all right, none, and two of three."""
    assert score(["1976"], [["1976"]], False) == {"f1": 100.0, "exact_match": 100.0}
    assert score(["1999"], [["1976"]], False) == {"f1": 0.0, "exact_match": 0.0}
    got = score(
        ["1976", "Beyonce", "climate change"], [["1976"], ["Beyoncé and Bruno Mars"], ["climate change"]], False
    )
    assert got == pytest.approx({"f1": 200 / 3, "exact_match": 200 / 3})


def test_normalized_by_hand():
    assert normalized("The  Cat's a-b, (an) THEATRE!") == "cats ab theatre"
    assert normalized("the") == normalized("  ") == ""
    assert normalized("“Über” — x") == "“über” — x"  # only ASCII's punctuation is dropped, as in the script


def test_f1_by_hand():
    # shared: "denver", "broncos"; precision 2/3, recall 2/2
    assert overlap("the Denver Broncos team", "Denver Broncos", False) == pytest.approx(0.8)
    assert overlap("a b b c", "b b b", False) == pytest.approx(2 * (2 / 3) * (2 / 3) / (4 / 3))  # "a" is an article
    assert overlap("x", "y", False) == 0


def test_the_best_of_several_answers_counts():
    got = score(["Super Bowl L"], [["L", "Super Bowl L", "Bowl"]], False)
    assert got == {"f1": 100.0, "exact_match": 100.0}
    assert score(["Bowl L"], [["L", "Super Bowl L"]], False)["f1"] == pytest.approx(80.0)


def test_no_answer_as_in_squad_2():
    got = score(["", "", "x y", "x"], [[], ["x"], [], ["x y"]], True)
    assert got["exact_match"] == 25.0
    assert got["f1"] == pytest.approx(100 * (1 + 0 + 0 + 2 / 3) / 4)
    assert got["unanswerable_f1"] == got["unanswerable_exact_match"] == 50.0
    assert got["answerable_f1"] == pytest.approx(100 * (2 / 3) / 2)
    assert score([""], [["the"]], True)["f1"] == 100.0  # nothing is left of the answer: none is right
    assert score([""], [["the"]], False) == {"f1": 0.0, "exact_match": 100.0}  # as the script of 1.1 has it


def plain_normalized(text):
    """The four steps, one after the other."""
    text = text.lower()
    text = "".join(character for character in text if character not in set(string.punctuation))
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


def plain_f1(answer, true, version):
    """Words counted one by one; precision and recall written out."""
    given, right = plain_normalized(answer).split(), plain_normalized(true).split()
    if version == 2 and (not given or not right):
        return float(given == right)
    left, same = list(right), 0
    for word in given:
        if word in left:
            left.remove(word)
            same += 1
    if same == 0:
        return 0.0
    precision, recall = same / len(given), same / len(right)
    return 2 * precision * recall / (precision + recall)


TEXTS = st.lists(
    st.sampled_from(["the", "A", "an", "cat", "Cat.", "dog", "don't", "...", "co-op", "Ü"]), max_size=5
).map(" ".join)


@given(TEXTS, TEXTS, st.sampled_from([1, 2]))
def test_as_the_plain_implementation(answer, true, version):
    assert normalized(answer) == plain_normalized(answer)
    assert exact(answer, true) == float(plain_normalized(answer) == plain_normalized(true))
    assert overlap(answer, true, version == 2) == pytest.approx(plain_f1(answer, true, version))


@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, max_size=3)), min_size=1, max_size=6), st.booleans())
def test_the_mean_over_questions_as_the_plain_implementation(pairs, unanswerable):
    version = 2 if unanswerable else 1
    total_f1 = total_exact = 0.0
    for answer, golds in pairs:
        if unanswerable:
            golds = [gold for gold in golds if plain_normalized(gold)]
        golds = golds or [""]
        total_f1 += max(plain_f1(answer, gold, version) for gold in golds)
        total_exact += max(plain_normalized(answer) == plain_normalized(gold) for gold in golds)
    got = score([answer for answer, _ in pairs], [golds for _, golds in pairs], unanswerable)
    assert got["f1"] == pytest.approx(100 * total_f1 / len(pairs))
    assert got["exact_match"] == pytest.approx(100 * total_exact / len(pairs))


def test_counts_must_match():
    with pytest.raises(ValueError, match="1 answers to 2 questions"):
        score(["x"], [["x"], ["y"]], False)
