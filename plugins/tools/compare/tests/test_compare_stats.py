"""Statistics against published tables, textbook definitions and independent implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from refarch_compare.evidence.row import Row
from refarch_compare.stats.blocks import by_block
from refarch_compare.stats.intervals import mean_interval
from refarch_compare.stats.paired import compare, holm, least_p, rank_biserial
from refarch_compare.stats.pscp import COSTS, Cost, pscp
from refarch_compare.stats.ranks import critical_difference, friedman, nemenyi_q, rank
from scipy import stats
from statsmodels.stats.multitest import multipletests

from refarch.errors import UsageError

numbers = st.floats(-1e3, 1e3, allow_nan=False).map(lambda value: round(value, 3))


# --- intervals ---


def test_the_t_interval_is_the_textbooks():
    values = [0.81, 0.83, 0.78, 0.84, 0.80]
    found = mean_interval(values)
    # mean 0.812, s 0.0238747, t(0.975; 4) = 2.776445
    assert found.mean == pytest.approx(0.812)
    assert found.half == pytest.approx(2.776445 * 0.0238747 / math.sqrt(5), rel=1e-5)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_one_value_has_no_interval_and_equal_values_an_empty_one():
    assert mean_interval([0.5])[:4] == (0.5, None, None, None)
    assert mean_interval([0.1] * 4)[:3] == (0.1, 0.1, 0.1)
    assert mean_interval([0.1] * 4, method="bootstrap")[:3] == (0.1, 0.1, 0.1)
    for wrong in ([], [1.0, math.nan], [math.inf]):
        with pytest.raises(UsageError):
            mean_interval(wrong)
    with pytest.raises(UsageError, match="between 0 and 1"):
        mean_interval([1.0, 2.0], level=95)


@settings(max_examples=50, deadline=None)
@given(st.lists(numbers, min_size=2, max_size=20), st.floats(0.5, 0.95), numbers)
def test_intervals_hold_the_mean_grow_with_the_level_and_move_with_the_values(values, level, shift):
    narrow, wide = mean_interval(values, level), mean_interval(values, 0.99)
    assert narrow.low <= narrow.mean <= narrow.high
    assert wide.low <= narrow.low and narrow.high <= wide.high
    moved = mean_interval([value + shift for value in values], level)
    assert moved.half == pytest.approx(narrow.half, abs=1e-6)


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(0)
    samples = generator.normal(1.0, 2.0, size=(400, 8))
    hits = {"t": 0, "bootstrap": 0}
    for sample in samples:
        for method in hits:
            found = mean_interval(sample, 0.9, method, resamples=199)
            hits[method] += found.low <= 1.0 <= found.high
    assert 0.86 < hits["t"] / 400 < 0.94
    assert 0.78 < hits["bootstrap"] / 400 < 0.94  # too narrow for eight values, as documented


def test_the_bootstrap_is_the_same_for_the_same_seed():
    values = [1.0, 2.0, 4.0, 8.0]
    assert mean_interval(values, method="bootstrap") == mean_interval(values, method="bootstrap")


# --- paired comparisons ---


def scores_of(**by_name):
    return {name: dict(enumerate(values)) for name, values in by_name.items()}


def test_pairs_are_compared_on_the_blocks_they_share():
    scores = {
        "a": {"x": 1.0, "y": 2.0, "z": 4.0, "only a": 100.0},
        "b": {"z": 3.5, "y": 1.4, "x": 0.1, "only b": -100.0},
    }
    (pair,) = compare(scores)
    assert pair.blocks == 3
    expected = stats.ttest_rel([1.0, 2.0, 4.0], [0.1, 1.4, 3.5])
    assert pair.t_p == pytest.approx(expected.pvalue)
    assert pair.difference.mean == pytest.approx((0.9 + 0.6 + 0.5) / 3)
    assert pair.effect == pytest.approx(expected.statistic / math.sqrt(3))
    assert pair.wilcoxon_p == pytest.approx(0.25) and pair.rank_effect == 1.0


def test_a_clear_difference_is_better_one_way_and_worse_the_other():
    a, b = [0.80, 0.82, 0.81, 0.83, 0.80], [0.70, 0.73, 0.70, 0.74, 0.71]
    (pair,) = compare(scores_of(a=a, b=b))
    assert pair.verdict == "better" and pair.sentence().startswith("a is better than b by 0.096 (95% interval")
    (pair,) = compare(scores_of(a=a, b=b), greater_is_better=False)
    assert pair.verdict == "worse" and pair.sentence().startswith("a is worse than b by 0.096")


def test_a_difference_within_noise_is_called_so():
    (pair,) = compare(scores_of(a=[0.80, 0.82, 0.78, 0.81], b=[0.79, 0.83, 0.79, 0.80]))
    assert pair.verdict == "within noise"
    assert "the difference between a and b, +0" in pair.sentence() and "is within noise" in pair.sentence()
    (same,) = compare(scores_of(a=[0.5] * 5, b=[0.5] * 5))
    assert same.verdict == "within noise" and same.rank_effect == 0.0


def test_too_few_blocks_are_called_so():
    (pair,) = compare(scores_of(a=[0.9, 0.9], b=[0.1, 0.1001]))
    assert pair.verdict == "too few blocks" and "measure more seeds" in pair.sentence()
    (one,) = compare(scores_of(a=[0.9], b=[0.1]))
    assert one.verdict == "too few blocks" and one.t_p is None
    (none,) = compare({"a": {1: 0.9}, "b": {2: 0.1}})
    assert none.verdict == "too few blocks" and "share no block" in none.sentence()
    # with five blocks the signed-rank test cannot reach 0.05: 2 / 2^5 = 0.0625
    (signed,) = compare(scores_of(a=[0.9, 0.8, 0.9, 0.8, 0.9], b=[0.1, 0.2, 0.3, 0.1, 0.2]), test="wilcoxon")
    assert least_p(5) == 0.0625 == signed.wilcoxon_p and signed.verdict == "too few blocks"


def test_a_constant_difference_is_no_certainty():
    """Accuracies of a hundred examples: three gains of one example each are a coin's three heads."""
    (pair,) = compare(scores_of(a=[0.81, 0.82, 0.83], b=[0.80, 0.81, 0.82]))
    assert pair.t_p == 0.25 and pair.verdict == "within noise"


def test_the_correction_counts_all_comparisons():
    generator = np.random.default_rng(1)
    scores = scores_of(**{name: generator.normal(size=6) for name in "abcd"})
    pairs = compare(scores)
    assert len(pairs) == 6 == pairs[0].comparisons
    expected = multipletests([pair.t_p for pair in pairs], method="holm")[1]
    assert [pair.corrected_p for pair in pairs] == pytest.approx(expected)
    against = compare(scores, baseline="b")
    assert [(pair.first, pair.second) for pair in against] == [("a", "b"), ("c", "b"), ("d", "b")]
    assert against[0].comparisons == 3


def test_false_alarms_are_as_rare_as_alpha_says():
    generator = np.random.default_rng(2)
    alarms = 0
    for _ in range(200):
        pairs = compare(scores_of(**{name: generator.normal(size=5) for name in "abcd"}))
        alarms += any(pair.verdict in ("better", "worse") for pair in pairs)
    assert alarms / 200 <= 0.09  # 0.05, with three standard errors of 200 draws


def test_unknown_baselines_and_single_techniques_are_refused():
    with pytest.raises(UsageError, match="needs two techniques"):
        compare(scores_of(a=[1.0]))
    with pytest.raises(UsageError, match="baseline 'c' has no scores"):
        compare(scores_of(a=[1.0], b=[2.0]), baseline="c")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(p):
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=10))
def test_swapping_two_techniques_turns_the_verdict(blocks):
    a, b = zip(*blocks, strict=True)
    (one,), (other,) = compare(scores_of(a=a, b=b)), compare(scores_of(b=b, a=a))
    turned = {"better": "worse", "worse": "better"}
    assert other.verdict == turned.get(one.verdict, one.verdict)
    assert other.difference.mean == pytest.approx(-one.difference.mean)
    assert one.t_p == pytest.approx(other.t_p)
    assert other.rank_effect == pytest.approx(-one.rank_effect)


def test_rank_biserial_by_hand():
    assert rank_biserial(np.array([1.0, -2.0, 3.0, 0.0])) == pytest.approx((1 + 3 - 2) / 6)


# --- ranks, on Demsar's (2006) example: C4.5 with parameters m and cf, AUC on 14 data sets ---

DEMSAR = """
0.763 0.768 0.771 0.798
0.599 0.591 0.590 0.569
0.954 0.971 0.968 0.967
0.628 0.661 0.654 0.657
0.882 0.888 0.886 0.898
0.936 0.931 0.916 0.931
0.661 0.668 0.609 0.685
0.583 0.583 0.563 0.625
0.775 0.838 0.866 0.875
1.000 1.000 1.000 1.000
0.940 0.962 0.965 0.962
0.619 0.666 0.614 0.669
0.972 0.981 0.975 0.9749
0.957 0.978 0.946 0.970
"""  # 0.9749 stands for a printed 0.975 that his ranks put behind the other


def demsar():
    table = np.array([line.split() for line in DEMSAR.strip().splitlines()], dtype=float)
    return {name: dict(enumerate(table[:, i])) for i, name in enumerate(("C4.5", "m", "cf", "m+cf"))}


def test_demsars_example():
    found = rank(demsar())
    by_name = dict(zip(found.names, found.ranks, strict=True))
    published = {"C4.5": 3.143, "m": 2.000, "cf": 2.893, "m+cf": 1.964}
    assert by_name == pytest.approx(published, abs=5e-4)
    assert found.names[0] == "m+cf" and found.blocks == 14
    assert found.chi_square == pytest.approx(9.28, abs=0.01)
    assert found.f == pytest.approx(3.69, abs=0.01)
    assert found.critical_difference == pytest.approx(1.25, abs=0.01)
    assert found.p == pytest.approx(stats.f.sf(3.69, 3, 39), abs=5e-4)
    assert found.groups == (("m+cf", "m", "cf", "C4.5"),)  # at 0.05 no pair is told apart: 3.143 - 1.964 < 1.25
    at_ten = rank(demsar(), alpha=0.1)
    assert at_ten.critical_difference == pytest.approx(1.12, abs=0.01)
    assert at_ten.groups == (("m+cf", "m", "cf"), ("cf", "C4.5"))  # 3.143 - 2.000 > 1.12


@pytest.mark.parametrize(
    ("alpha", "published"),
    [
        (0.05, (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)),
        (0.10, (1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920)),
    ],
)
def test_critical_values_are_those_of_the_published_table(alpha, published):
    assert [nemenyi_q(k, alpha) for k in range(2, 11)] == pytest.approx(published, abs=1.1e-3)


def test_friedman_without_ties_is_scipys():
    table = np.random.default_rng(3).normal(size=(9, 4))
    found = rank({str(k): dict(enumerate(table[:, k])) for k in range(4)})
    assert found.chi_square == pytest.approx(stats.friedmanchisquare(*table.T).statistic)


def test_blocks_that_not_all_share_are_dropped_and_counted():
    scores = demsar()
    del scores["m"][3]
    assert (rank(scores).blocks, rank(scores).dropped) == (13, 1)
    with pytest.raises(UsageError, match="two blocks"):
        rank({"a": {1: 0.5}, "b": {2: 0.5}})


def test_a_complete_order_is_found_and_separated():
    scores = {name: dict.fromkeys(range(30), -place) for place, name in enumerate("abcd")}
    found = rank(scores)
    assert (found.names, found.groups, found.f) == (("a", "b", "c", "d"), (), math.inf)
    assert "differ over 30 blocks" in found.sentence()
    reverse = rank(scores, greater_is_better=False)
    assert reverse.names == ("d", "c", "b", "a")


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_mean_ranks_sum_to_what_they_must(k, blocks, seed):
    table = np.random.default_rng(seed).integers(0, 4, size=(blocks, k)).astype(float)
    found = rank({str(i): dict(enumerate(table[:, i])) for i in range(k)})
    assert sum(found.ranks) == pytest.approx(k * (k + 1) / 2)
    chi, _, p = friedman(found.ranks, blocks)
    assert chi >= -1e-9 and 0 <= p <= 1
    assert critical_difference(k, blocks) > critical_difference(k, blocks + 1)


# --- PSCP, on the figures in PEFT-Bench's own repository (kinit-sk/PEFT-Bench, scripts/peftbench): mean score,
# trainable parameters, teraoperations (the base's are 8.38), peak memory in GB on LLaMA-3-8B-Instruct ---

PEFT_BENCH = {
    "ln tuning": (77.8, 266_240, 8.38, 27.43, 60.19),
    "lora": (80.1, 14_680_064, 8.38, 27.75, 60.08),
    "bitfit": (75.3, 163_840, 8.38, 27.20, 58.38),
    "ia3": (74.7, 196_608, 8.69, 28.41, 55.62),
    "prefix": (45.9, 34_177_536, 8.39, 27.61, 33.18),
    "prompt": (50.0, 409_600, 10.05, 42.47, 29.49),
    "p-tuning": (51.7, 53_130_752, 10.06, 34.53, 29.26),
}


@pytest.mark.parametrize("name", PEFT_BENCH)
def test_pscp_is_what_peft_bench_publishes(name):
    score, parameters, operations, memory, published = PEFT_BENCH[name]
    costs = {
        "trainable_parameters": parameters,
        "extra_teraoperations": operations - 8.38,
        "peak_memory_gigabytes": memory,
    }
    assert round(pscp(score, costs), 2) == published


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 100), st.floats(0, 1e10), st.floats(0, 100), st.floats(0, 500), st.floats(1.01, 10))
def test_pscp_only_penalises(score, parameters, operations, memory, factor):
    costs = dict(zip(COSTS, (parameters, operations, memory), strict=True))
    value = pscp(score, costs)
    assert 0 <= value <= score * (1 + 1e-12)
    for name in COSTS:
        assert pscp(score, {**costs, name: costs[name] * factor}) <= value * (1 + 1e-12)
    assert pscp(score, dict.fromkeys(COSTS, 0.0)) == score
    assert pscp(8.0, {"a": 2.0}, {"a": Cost(2.0, 3.0)}) == 1.0


@pytest.mark.parametrize(
    ("score", "costs", "said"),
    [
        (1.0, {"trainable_parameters": 1.0}, "needs the cost"),
        (1.0, {**dict.fromkeys(COSTS, 1.0), "memory": 1.0}, "no cost 'memory'"),
        (-1.0, dict.fromkeys(COSTS, 1.0), "score is -1"),
        (1.0, dict.fromkeys(COSTS, math.nan), "must be a number from 0 up"),
    ],
)
def test_pscp_refuses_what_it_cannot_weigh(score, costs, said):
    with pytest.raises(UsageError, match=said):
        pscp(score, costs)


# --- rows to blocks ---


def test_rows_become_blocks_and_imported_ones_stay_apart():
    common = {"technique": "lora", "backbone": "b", "task": "t", "metric": "accuracy"}
    rows = [
        Row(**common, score=0.8, seed=1),
        Row(**common, score=0.6, seed=1),
        Row(**common, score=0.9, seed=1, origin="imported: somewhere"),
        Row(**{**common, "technique": "ia3"}, score=0.5, seed=1),
    ]
    blocks = by_block(rows)
    assert blocks.averaged == 1 and blocks.greater_is_better
    assert sorted(blocks.scores["lora"].values()) == pytest.approx([0.7, 0.9])
    (pair,) = compare(blocks.scores)
    assert pair.blocks == 1 and pair.difference.mean == pytest.approx(0.2)
    with pytest.raises(UsageError, match="one metric at a time"):
        by_block([*rows, Row(**common, score=1.0, greater_is_better=False)])
