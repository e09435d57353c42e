"""A family's head and layer paths."""

import pytest

import refarch.architecture as a
from refarch.architecture.family import parse_head
from refarch.errors import SpecError


def test_heads() -> None:
    assert parse_head("classifier") == (("classifier",),)
    assert parse_head("pre_classifier + classifier | lm.head") == (("pre_classifier", "classifier"), ("lm.head",))


@pytest.mark.parametrize("text", ["", "a +", "+ a", "a || b", "a b", "a[0/3]", "a?"])
def test_heads_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="no head entry"):
        parse_head(text)


@pytest.mark.parametrize(("path", "good"), [("l.{}", True), ("a.b.{}.c.{}", True), ("{}", False), ("l.{}.x", False)])
def test_layer_paths(path: str, good: bool) -> None:
    values = {"name": "encoder", "layers": path, "slots": {}}
    if good:
        assert a.StackTable.parse(values).layers == path
    else:
        with pytest.raises(SpecError, match="layers"):
            a.StackTable.parse(values)
