from collections import Counter

from hypothesis import given, settings, strategies as st

from refarch.tasks.splits import limit, split

examples = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30)), min_size=1, max_size=120)
sizes = st.lists(st.floats(0, 0.45), min_size=1, max_size=2)
seeds = st.integers(0, 2**40)


@settings(deadline=None)
@given(examples, sizes, seeds)
def test_parts_are_disjoint_complete_and_keep_groups_whole(rows, sizes, seed):
    labels, groups = [label for label, _ in rows], [group for _, group in rows]
    parts = split(labels, groups, sizes, seed)
    assert sorted(index for part in parts for index in part) == list(range(len(rows)))
    seen = [{groups[i] for i in part} for part in parts]
    assert sum(map(len, seen)) == len(set(groups))
    assert parts == split(labels, groups, sizes, seed)
    assert parts[0]


@settings(deadline=None)
@given(st.integers(20, 200), st.integers(20, 200), st.floats(0.1, 0.4), seeds)
def test_single_examples_are_split_in_proportion(first, second, size, seed):
    labels = ["a"] * first + ["b"] * second
    part = Counter(labels[i] for i in split(labels, range(len(labels)), [size], seed)[1])
    assert abs(part["a"] - size * first) <= 1
    assert abs(part["b"] - size * second) <= 1


@settings(deadline=None)
@given(examples, st.integers(1, 150), seeds)
def test_limits_keep_the_count_and_every_label_that_fits(rows, count, seed):
    labels = [label for label, _ in rows]
    kept = limit(labels, count, seed)
    assert len(kept) == len(set(kept)) == min(count, len(rows))
    assert kept == limit(labels, count, seed)
    assert len({labels[i] for i in kept}) == min(len(set(labels)), count)


def test_the_split_of_a_seed_never_changes():
    """The figures of one version must hold in the next."""
    assert split(["a", "b"] * 6, range(12), [0.25, 0.25], 0) == [[3, 8, 10, 11], [0, 1, 5, 6], [2, 4, 7, 9]]
    assert limit(["a", "a", "b"] * 4, 5, 0) == [1, 2, 3, 9, 11]
