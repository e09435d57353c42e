"""A task is made from its spec, with its options decided and its way known."""

from typing import Any

import pytest

from refarch import Option, Task, TaskSpec
from refarch.errors import PluginError, SpecError
from refarch.tasks import make_task


class Little(Task):
    """Reads nothing."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    read = model_arguments = encode = collator = metrics = lambda *_: None  # type: ignore[assignment]


class Nothing:
    """No task."""

    def __init__(self, **options: Any) -> None: ...


def spec(name: str) -> TaskSpec:
    return TaskSpec(
        name="little",
        summary="for tests",
        implementation=f"{__name__}:{name}",
        auto_class="AutoModel",
        metric="f1",
        options=(Option(name="size", type="integer", default=3, help="how large"),),
    )


def test_it_has_its_options_its_way_and_its_metric() -> None:
    task = make_task(spec("Little"), {}, "generative")
    assert isinstance(task, Little) and task.options == {"size": 3}
    assert (task.formulation, task.metric) == ("generative", "f1")
    assert make_task(spec("Little"), {"size": "4"}, "plain").options == {"size": 4}  # type: ignore[attr-defined]


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(SpecError, match="did you mean 'size'"):
        make_task(spec("Little"), {"sise": 4}, "plain")
    with pytest.raises(PluginError, match=r"makes a Nothing, which is no refarch.Task"):
        make_task(spec("Nothing"), {}, "plain")
