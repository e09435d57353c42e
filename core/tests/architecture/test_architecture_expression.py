"""Expressions: text, data and specs say the same, and what makes no sense is refused with a hint."""

import pytest
from hypothesis import given, strategies as st

from refarch.architecture.expression import Composed, Operator, operators, parts, read_expression, to_text
from refarch.errors import SpecError

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,6}", fullmatch=True)
WEIGHTS = st.floats(allow_nan=False, allow_infinity=False)


def unique(terms: list[dict]) -> list[dict]:
    """Terms with labels of their own."""
    return [{**term, "label": f"t{i}"} for i, term in enumerate(terms)]


def operator(child: st.SearchStrategy) -> st.SearchStrategy:
    """Any running operator over expressions."""
    plain = st.lists(st.fixed_dictionaries({"of": child}), min_size=1, max_size=3).map(unique)
    weighted = st.lists(st.fixed_dictionaries({"of": child, "weight": WEIGHTS}), min_size=1, max_size=3).map(unique)
    return st.one_of(
        st.fixed_dictionaries({"op": st.sampled_from(["stack", "split", "fuse"]), "terms": plain}),
        st.fixed_dictionaries({"op": st.just("sum"), "terms": weighted}),
        st.fixed_dictionaries({"op": st.just("route"), "terms": plain, "by": st.sampled_from(["token", "example"])}),
        st.fixed_dictionaries({"op": st.just("ties"), "terms": st.just([{"of": "x", "weight": 0.5}, {"of": "y"}]),
                               "density": st.floats(0.01, 1), "rank": st.one_of(st.none(), st.integers(1, 9))}),
    )  # fmt: skip


@given(st.recursive(NAMES, operator, max_leaves=8))
def test_text_data_and_json_give_the_same_expression(data: object) -> None:
    expression = read_expression(data)
    assert read_expression(to_text(expression)) == expression
    assert Composed.from_json(Composed(expression=expression).to_json()).expression == expression
    if isinstance(expression, Operator):
        assert read_expression(expression.model_dump()) == expression


def test_what_an_expression_says() -> None:
    expression = read_expression("stack(prompt, r = route(a, b, c, by=example, top=2), sum(lora-a: 0.5, a: -1e-3))")
    assert parts(expression) == ("prompt", "a", "b", "c", "lora-a")
    assert [op.op for op in operators(expression)] == ["stack", "route", "sum"]  # type: ignore[attr-defined]
    assert expression.terms[1].name == "r"  # type: ignore[union-attr]
    assert [term.weight for term in expression.terms[2].of.terms] == [0.5, -1e-3]  # type: ignore[union-attr]
    assert read_expression({"op": "sum", "terms": {"a": 2, "b": 1}}) == read_expression("sum(a: 2, b)")
    assert read_expression("lora-a") == "lora-a"


WRONG = {
    "stack(": "expected a name",
    "foo(a)": "there is no operator 'foo'",
    "sum(a, a)": "'a' stands twice",
    "stack(a: 2)": "stack takes no weights",
    "stack(a b)": "expected \\)",
    "sum(a;b)": "there is ';b\\)' at character 6",
    "../a": "cannot be read",
    "": "cannot be read",
    "average(sum(a, b))": "sum stands inside average",
    "route(a, b, topp=2)": "did you mean 'top'",
    "route(a, b, top=3)": "there are 2 parts",
    "route(a, b, by=task)": "needs the number of tasks",
    "route(a, b, top=1)": "nothing trains the gate",
    "ties(a, b, density=2)": "density: input should be less than or equal to 1",
    "svd(a, b)": "rank: is required",
    "sum(a: 1e999)": "finite number",
    "stack(" * 60 + "a" + ")" * 60: "nests deeper",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=WRONG[text]):
        read_expression(text)


def test_data_is_refused_like_text() -> None:
    deep: object = "a"
    for _ in range(3000):
        deep = {"op": "stack", "terms": [deep]}
    for data, match in (({"op": "stac", "terms": ["a"]}, "did you mean 'stack'"),
                        ({"op": "stack"}, "terms: is required"),
                        ({"op": "sum", "terms": ["a"], "x": 1}, "no such field"), (5, "not 5"), (deep, "too deep"),
                        ({"op": "sum", "terms": {"a": float("nan")}}, "finite")):  # fmt: skip
        with pytest.raises(SpecError, match=match):
            read_expression(data)
