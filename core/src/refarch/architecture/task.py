"""A task spec: data, preprocessing, head or loss, metrics, behind one import path; and the options a user may set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from refarch.architecture.base import CONTRACT, PlainData, Spec
from refarch.architecture.module import ImportPath
from refarch.architecture.technique import Option, PluginName, options_model, validate_options


class TaskSpec(Spec):
    """A task. A preset is a task of its own: the same implementation with other defaults."""

    name: PluginName
    summary: str = Field(min_length=1, max_length=120)
    implementation: ImportPath
    """A :class:`refarch.pipeline.Task` class."""
    auto_class: str
    """The transformers auto class that the backbone is loaded with."""
    new_head: bool
    """Whether the head starts untrained, so that every technique trains it too."""
    metric: str
    """The metric that is the score."""
    greater_is_better: bool = True
    options: tuple[Option, ...] = ()
    defaults: PlainData = {}
    """Of a preset: values of the options that differ from their defaults."""
    training: dict[str, Any] = {}
    """Fields of the training spec that suit this task; a pipeline's own values win."""
    data_licence: str = ""
    reference: str = ""
    kind: Literal["task", "preset"] = "task"
    contract: int = CONTRACT

    @model_validator(mode="after")
    def _defaults_are_options(self) -> TaskSpec:
        validate_options(self.options, self.defaults, f"the defaults of task {self.name!r}")
        return self

    def configure(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options with their values.

        Raises:
            SpecError: a misspelt option or a wrong type.
        """
        return validate_options(self.options, {**self.defaults, **given}, f"task {self.name!r}")

    def options_schema(self) -> dict[str, Any]:
        """JSON schema of the options."""
        return options_model(self.options, f"{self.name} options").model_json_schema()
