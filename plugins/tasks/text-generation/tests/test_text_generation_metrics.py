"""Metrics: the reference libraries' published examples, and plain slow computations of what they should be."""

import math
import random
from collections import Counter

import pytest
from refarch_text_generation.metrics import measure, rouge, transposed
from refarch_text_generation.task import TextGeneration
from rouge_score import rouge_scorer

OPTIONS = {"stemmer": True, "bleu_tokenizer": "13a", "lowercase": False}

# sacreBLEU's README, "Using SacreBLEU from Python" and "Variable Number of References"
SYSTEM = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
FIRST = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
SECOND = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."]


def test_sacrebleus_published_examples():
    both = list(zip(FIRST, SECOND, strict=True))
    found = measure(SYSTEM, both, OPTIONS)
    assert round(found["bleu"], 2) == 48.53
    assert round(found["chrf"], 2) == 59.73
    assert found == TextGeneration().metrics(SYSTEM, both)
    some = [[SECOND[0]], *both[1:]]  # the first sentence has one reference, the others have two
    assert round(measure(SYSTEM, some, OPTIONS, ["bleu"])["bleu"], 2) == 29.44
    assert transposed(some) == [[SECOND[0], *FIRST[1:]], [None, *SECOND[1:]]]


# Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation", examples 1 and 2
CANDIDATE = "the the the the the the the"
REFERENCES = ["the cat is on the mat", "there is a cat on the mat"]


def clipped(candidate, references, n):
    """Matched and all n-grams of a candidate, as the paper counts them."""

    def grams(text):
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    own, most = grams(candidate), Counter()
    for reference in references:
        most |= grams(reference)
    return sum((own & most).values()), sum(own.values())


def plain_bleu(predictions, references):
    matched, all_, length, wanted = [0] * 4, [0] * 4, 0, 0
    for prediction, true in zip(predictions, references, strict=True):
        size = len(prediction.split())
        length += size
        wanted += min((abs(len(text.split()) - size), len(text.split())) for text in true)[1]
        for n in range(4):
            a, b = clipped(prediction, true, n + 1)
            matched[n], all_[n] = matched[n] + a, all_[n] + b
    brevity = min(1.0, math.exp(1 - wanted / length))
    return 100 * brevity * math.exp(sum(math.log(a / b) for a, b in zip(matched, all_, strict=True)) / 4)


def test_the_plain_count_is_the_papers():
    assert clipped(CANDIDATE, REFERENCES, 1) == (2, 7)
    assert clipped(CANDIDATE, REFERENCES[:1], 1) == (2, 7) and clipped(CANDIDATE, REFERENCES[1:], 1) == (1, 7)


@pytest.mark.parametrize("seed", range(4))
def test_bleu_against_several_references_is_the_plain_one(seed):
    chance = random.Random(seed)

    def text():
        return " ".join(chance.choice("abc") for _ in range(chance.randint(4, 9)))

    predictions = [text() for _ in range(12)]
    references = [[text() for _ in range(chance.randint(1, 4))] for _ in predictions]
    found = measure(predictions, references, OPTIONS, ["bleu"])["bleu"]
    assert found == pytest.approx(plain_bleu(predictions, references))
    alone = measure(predictions, [true[:1] for true in references], OPTIONS, ["bleu"])["bleu"]
    assert abs(found - alone) > 1  # that there are more references counts


# rouge-score's own tests of values by ROUGE-1.5.5 and of the paper (Lin 2004), section 3.2
ROUGE_EXAMPLES = [
    ("rouge1", "testing one two", "testing", 1 / 2),
    ("rouge1", "testing one two", "testing one", 4 / 5),
    ("rouge2", "testing one two", "testing one", 2 / 3),
    ("rougeL", "testing one two", "testing two", 4 / 5),
    ("rougeLsum", "w1 w2 w3 w4 w5", "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", 0.5333),
    ("rougeLsum", "w1 w2 w3 w4 w5", "/", 0.0),
    ("rougeLsum", "First sentence.\nSecond Sentence.", "Second sentence.\nFirst Sentence.", 1.0),
    ("rougeLsum", "First sentence. Second Sentence.", "Second sentence. First Sentence.", 1.0),
]


@pytest.mark.parametrize("kind, target, prediction, value", ROUGE_EXAMPLES)
def test_rouge_scores_published_examples(kind, target, prediction, value):
    assert rouge([prediction], [[target]], [kind], True)[kind] == pytest.approx(100 * value, abs=0.01)


def test_rouge_is_the_librarys_mean_and_the_best_of_several_references():
    texts = ["The cats sat on the mat.\nIt was raining.", "a dog barked", "nothing alike"]
    references = [["A cat sits on a mat.\nRain fell.", "The cats were sitting on mats."], ["the dog barks"], ["zero"]]
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    for stemmer in (True, False):
        scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=stemmer)
        for kind in kinds:
            best = [
                max(scorer.score(true, text)[kind].fmeasure for true in some)
                for text, some in zip(texts, references, strict=True)
            ]
            found = rouge(texts, references, [kind], stemmer)[kind]
            # the library reads a text of one line as one sentence, and so it is here
            assert found == pytest.approx(100 * sum(best) / 3)
    with_stems, without = (rouge(texts, references, ["rouge1"], stemmer)["rouge1"] for stemmer in (True, False))
    assert with_stems > without


def test_rougel_is_the_plain_longest_common_subsequence():
    chance = random.Random(0)

    def longest(a, b):
        if not a or not b:
            return 0
        if a[0] == b[0]:
            return 1 + longest(a[1:], b[1:])
        return max(longest(a[1:], b), longest(a, b[1:]))

    for _ in range(10):
        a, b = ([chance.choice("xyz") for _ in range(chance.randint(1, 7))] for _ in range(2))
        found = rouge([" ".join(a)], [[" ".join(b)]], ["rougeL"], True)["rougeL"]
        assert found == pytest.approx(200 * longest(a, b) / (len(a) + len(b)))


def test_options_and_empty_texts():
    upper = [text.upper() for text in SYSTEM]
    assert measure(upper, [[text] for text in SYSTEM], OPTIONS, ["bleu", "chrf"])["bleu"] < 20
    same = measure(upper, [[text] for text in SYSTEM], {**OPTIONS, "lowercase": True}, ["bleu", "chrf"])
    assert same == {"bleu": pytest.approx(100), "chrf": pytest.approx(100)}
    chinese = (["我爱北京天安门"], [["我爱天安门"]])
    assert measure(*chinese, OPTIONS, ["bleu"])["bleu"] == 0
    assert measure(*chinese, {**OPTIONS, "bleu_tokenizer": "zh"}, ["bleu"])["bleu"] > 20
    nothing = measure(["", ""], [["a text"], ["another"]], OPTIONS)
    assert set(nothing.values()) == {0.0}
