"""A pipeline spec (backbone + techniques + task + training) and the record that a run of it leaves."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from refarch.architecture.spec import CONTRACT, Spec
from refarch.architecture.technique import PluginName

Precision = Literal["float32", "bfloat16", "float16"]


class BackboneChoice(Spec):
    """Which pretrained model, and how it is loaded."""

    name: str = Field(min_length=1)
    """A model plugin's name, a local folder in transformers' layout, or a hub id."""
    revision: str | None = None
    dtype: Precision | None = None
    """None keeps the dtype that the weights are stored in."""
    trust_remote_code: bool = False
    """Off unless asked for: it runs code that comes with the weights."""
    config: dict[str, Any] = {}
    """Values of the model's configuration to override (dropout, for example)."""


class TechniqueChoice(Spec):
    """Which technique with which options."""

    name: PluginName
    options: dict[str, Any] = {}
    """The technique's options, and ``slots``, ``layers``, ``preset``."""
    label: str | None = None
    """The adaptation's name; the technique's name when left out."""
    start: str | None = None
    """The folder of a saved adaptation of the same technique on the same backbone, whose values training starts from; a
    new head that it does not have starts as in any run."""


class TaskChoice(Spec):
    """Which task with which options."""

    name: PluginName
    options: dict[str, Any] = {}
    formulation: PluginName | None = None
    """How the task is put to the backbone; the first of the task's formulations that suits its kind when left out."""


class TrainingSpec(Spec):
    """How the modules are trained; carried out by transformers' Trainer."""

    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps; wins over ``epochs``."""
    batch_size: int = Field(32, ge=1)
    eval_batch_size: int = Field(64, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup: float = Field(0.06, ge=0, le=1)
    """The part of all steps in which the learning rate rises."""
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Precision = "float32"
    """float32, or automatic mixed precision."""
    gradient_checkpointing: bool = False
    group_by_length: bool = True
    """Batches of like lengths: on CPU several times faster."""
    save_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; ten in a run when left out."""
    log_every: int = Field(10, ge=1)
    evaluate_every: int | None = Field(None, ge=1)
    """Steps between evaluations on the validation split; none when left out."""
    evaluations: int | None = Field(None, ge=1)
    """Instead of ``evaluate_every``: about so many evaluations on the validation split, evenly spread, one of them at
    the end."""
    keep_checkpoints: bool = False
    """Keep the optimizer's state after the run has finished."""
    threads: int | None = Field(None, ge=1)
    """Torch's threads; the cores that this process may use, at most 8, when left out."""

    @model_validator(mode="after")
    def _one_rhythm(self) -> TrainingSpec:
        if self.evaluate_every and self.evaluations:
            raise ValueError("give either evaluate_every or evaluations")
        return self


class PipelineSpec(Spec):
    """Everything that a run does, in one file."""

    backbone: BackboneChoice
    techniques: tuple[TechniqueChoice, ...] = Field(min_length=1)
    task: TaskChoice
    training: TrainingSpec = TrainingSpec()
    seed: int = Field(0, ge=0, lt=2**31)
    """The run's seed; those of the head, the modules and the data order are derived from it."""
    score_on: Literal["test", "validation"] = "test"
    """The split that gives the score. A run that searches for settings scores on validation and never sees the test
    split."""
    contract: int = CONTRACT

    @field_validator("backbone", mode="before")
    @classmethod
    def _backbone_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("task", mode="before")
    @classmethod
    def _task_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("techniques", mode="before")
    @classmethod
    def _techniques_by_name(cls, value: Any) -> Any:
        items = [value] if isinstance(value, (str, dict)) else value
        if not isinstance(items, (list, tuple)):
            return items
        return tuple({"name": item} if isinstance(item, str) else item for item in items)


class Seeds(Spec):
    """Every seed of a run."""

    run: int
    head: int
    modules: int
    data: int


class Times(Spec):
    """Wall-clock seconds of a run's phases, summed over resumptions."""

    load: float = 0.0
    train: float = 0.0
    evaluate: float = 0.0


class RunRecord(Spec):
    """What a run leaves: enough to compare it with others and to repeat it."""

    format: int = 1
    pipeline: PipelineSpec
    score: float
    """The task's metric on the split that ``pipeline.score_on`` names."""
    metric: str
    greater_is_better: bool
    formulation: str = "plain"
    """How the task was put to the backbone."""
    metrics: dict[str, float]
    """All metrics on that split."""
    baselines: dict[str, float] = {}
    """The same metric for trivial answers, such as the most frequent label."""
    seeds: Seeds
    times: Times
    trainable_parameters: int
    """All that trained: modules and head."""
    module_parameters: int
    """Those of the techniques alone."""
    total_parameters: int
    """The base's, without the modules."""
    peak_memory_bytes: int | None
    """Of the process on CPU, of the device otherwise."""
    saved_bytes: int
    """Of the saved modules."""
    steps: int
    resumed: int = 0
    """How often the run was taken up again."""
    examples: dict[str, int] = {}
    device: str
    threads: int
    versions: dict[str, str]
    adaptations: tuple[str, ...]
    """Folders of the saved adaptations, relative to the run's."""
    started: str
    finished: str
