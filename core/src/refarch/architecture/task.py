"""A task spec: data, preprocessing, head or loss, metrics, behind one import path; and the options a user may set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from refarch.architecture.family import BackboneKind
from refarch.architecture.module_fields import ImportPath
from refarch.architecture.spec import CONTRACT, PlainData, Spec
from refarch.architecture.technique import Option, PluginName, options_model, validate_options
from refarch.errors import UsageError, did_you_mean

KINDS: tuple[BackboneKind, ...] = ("encoder", "decoder", "encoder-decoder")

SOURCE_OPTIONS = (
    Option(
        name="train",
        type="string",
        help="file (.csv, .tsv, .jsonl, .parquet ...) or URL; of a dataset, a split's name",
    ),
    Option(name="validation", type="string", help="as train; made from the train rows when not set"),
    Option(name="test", type="string", help="as train; made from the train rows when not set"),
    Option(name="dataset", type="string", help="instead of files: a name or folder for datasets.load_dataset"),
    Option(name="config", type="string", help="the dataset's configuration (subset)"),
)
"""Where a task's data come from; :func:`refarch.tasks.sources.read_source` reads what they name."""

SPLIT_OPTIONS = (
    Option(
        name="test_size",
        type="number",
        default=0.2,
        exclusive_minimum=0,
        maximum=0.8,
        help="share of the train rows that become the test split where there is none",
    ),
    Option(
        name="validation_size",
        type="number",
        default=0.1,
        minimum=0,
        maximum=0.8,
        help="share of the train rows that become the validation split where there is none; 0 for none",
    ),
    Option(
        name="split_seed",
        type="integer",
        minimum=0,
        help="decides made splits and limits; the run's seed when not set",
    ),
    Option(
        name="train_limit",
        type="integer",
        minimum=2,
        help="train on at most so many rows, drawn evenly from each label",
    ),
    Option(
        name="test_limit", type="integer", minimum=1, help="test on at most so many rows, drawn evenly from each label"
    ),
)
"""How splits are made and limited; :func:`refarch.tasks.splits.make_splits` follows them."""


class Formulation(Spec):
    """One way of putting a task to a backbone: with a head, as text to be continued, as choices to be compared ..."""

    name: PluginName
    summary: str = ""
    kinds: tuple[BackboneKind, ...] = KINDS
    """The kinds of backbone that it suits."""
    auto_class: str
    """The transformers auto class that the backbone is loaded with."""
    new_head: bool
    """Whether the head starts untrained, so that every technique trains it too."""


TEXT_FORMULATIONS = (
    Formulation(
        name="generative",
        summary="prompt and answer are one text, whose answer is learnt",
        kinds=("decoder",),
        auto_class="AutoModelForCausalLM",
        new_head=False,
    ),
    Formulation(
        name="text-to-text",
        summary="the prompt is read and the answer is written",
        kinds=("encoder-decoder",),
        auto_class="AutoModelForSeq2SeqLM",
        new_head=False,
    ),
)
"""For tasks whose answer is text that the backbone writes; :mod:`refarch.tasks.prompts` encodes their examples."""


class TaskSpec(Spec):
    """A task. A preset is a task of its own: the same implementation with other defaults."""

    name: PluginName
    summary: str = Field(min_length=1, max_length=120)
    implementation: ImportPath
    """A :class:`refarch.pipeline.Task` class."""
    auto_class: str = ""
    """The transformers auto class that the backbone is loaded with, where that is one for every kind of backbone."""
    new_head: bool = False
    """Whether the head starts untrained, so that every technique trains it too."""
    formulations: tuple[Formulation, ...] = ()
    """Where it depends on the kind of backbone, or there are several ways: these, instead of ``auto_class`` and
    ``new_head``. The first that suits a backbone is its default."""
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
        if bool(self.auto_class) == bool(self.formulations):
            raise ValueError(f"task {self.name!r}: give either auto_class or formulations")
        names = [formulation.name for formulation in self.formulations]
        if len(set(names)) != len(names):
            raise ValueError(f"task {self.name!r}: two formulations have one name: {names}")
        return self

    def preset(self, name: str, summary: str, defaults: Mapping[str, Any], **changes: Any) -> TaskSpec:
        """This task with other defaults, as a task of its own.

        Args:
            name: its name.
            summary: one line.
            defaults: values of options; those of this task stay where they are not named.
            changes: other fields, such as ``metric``, ``data_licence`` and ``reference``.

        Raises:
            ValueError: a default names no option, or is no value of it.
        """
        own = {field: getattr(self, field) for field in type(self).model_fields}
        fields = {"name": name, "summary": summary, "kind": "preset", "defaults": {**self.defaults, **defaults}}
        return TaskSpec(**{**own, **fields, **changes})

    def ways(self) -> tuple[Formulation, ...]:
        """All formulations; one that is named ``plain`` where the task declares none."""
        plain = Formulation(name="plain", auto_class=self.auto_class or "-", new_head=self.new_head)
        return self.formulations or (plain,)

    def formulation(self, kind: BackboneKind, wanted: str | None = None) -> Formulation:
        """How the task is put to a backbone of a kind.

        Args:
            kind: the backbone's.
            wanted: a formulation's name; the first that suits when left out.

        Raises:
            UsageError: there is no such formulation, or it does not suit.
        """
        ways = self.ways()
        if wanted is not None and wanted not in [way.name for way in ways]:
            raise UsageError(
                f"task {self.name!r} has no formulation {wanted!r}", did_you_mean(wanted, [way.name for way in ways])
            )
        for way in ways:
            if kind in way.kinds and wanted in (None, way.name):
                return way
        suits = {way.name: ", ".join(way.kinds) for way in ways}
        raise UsageError(
            f"task {self.name!r} cannot be put to a backbone of kind {kind}"
            + (f" as {wanted!r}" if wanted is not None else ""),
            "its formulations are for: " + "; ".join(f"{name}: {kinds}" for name, kinds in suits.items()),
        )

    def configure(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options with their values.

        Raises:
            SpecError: a misspelt option or a wrong type.
        """
        return validate_options(self.options, {**self.defaults, **given}, f"task {self.name!r}")

    def options_schema(self) -> dict[str, Any]:
        """JSON schema of the options."""
        return options_model(self.options, f"{self.name} options").model_json_schema()
