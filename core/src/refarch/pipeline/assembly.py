"""A pipeline's parts, put together: data and model loaded, techniques attached; and which split gives the score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refarch.architecture import Formulation, PipelineSpec, Seeds, TaskSpec
from refarch.engine import Adaptation, Source
from refarch.engine.adaptation.attach import attach
from refarch.engine.adaptation.load import start_from
from refarch.errors import UsageError
from refarch.pipeline.pool import Pool
from refarch.pipeline.seeding import seeds
from refarch.plugins import Registry, ResolvedPipeline, default_registry, look_up
from refarch.tasks.task import Data, Rows, Task


@dataclass
class Assembled:
    """A pipeline's parts, loaded and attached."""

    pipeline: PipelineSpec
    task_spec: TaskSpec
    formulation: Formulation
    task: Task
    data: Data
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adaptations: list[Adaptation]
    seeds: Seeds
    total_parameters: int


def assemble(
    pipeline: PipelineSpec | ResolvedPipeline, *, registry: Registry | None = None, pool: Pool | None = None
) -> Assembled:
    """Load a pipeline's data and model and attach its techniques.

    Args:
        pipeline: looked up; a plain spec is looked up first.
        registry: where names are looked up; the installed plugins when left out.
        pool: what earlier runs of this process have loaded; everything is loaded when left out.

    Raises:
        RefarchError: with the cause, whatever part of it cannot be had.
    """
    registry = registry or default_registry()
    resolved = look_up(pipeline, registry)
    spec, own = resolved.pipeline, seeds(resolved.pipeline.seed)
    base = (pool or Pool()).take(resolved, registry)
    model = base.model
    total = sum(parameter.numel() for parameter in model.parameters())
    if spec.training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    attached = _attached(model, resolved, own.modules, base.formulation.new_head, registry)
    base.task.check_model(model)
    return Assembled(
        spec, base.spec, base.formulation, base.task, base.data, model, base.tokenizer, attached, own, total
    )


def _attached(
    model: PreTrainedModel, pipeline: ResolvedPipeline, seed: int, new_head: bool, registry: Registry
) -> list[Adaptation]:
    """The techniques on the model, one after another; a new head trains with the first of them."""
    found: list[Adaptation] = []
    for named in pipeline.techniques:
        found.append(
            attach(
                model,
                named.technique,
                name=named.label,
                seed=seed,
                train_head=new_head and not found and not named.technique.selects_head,
                registry=registry,
                _source=Source(distribution=named.source.distribution, version=named.source.version),
            )
        )
        if named.start is not None:
            start_from(found[-1], Path(named.start))
    return found


def score_split(pipeline: PipelineSpec, data: Data) -> Rows:
    """The split that gives the score.

    Args:
        pipeline: says which one it is.
        data: its task's.

    Raises:
        UsageError: the task has no such split here.
    """
    rows = data.test if pipeline.score_on == "test" else data.validation
    if rows is None or not len(rows):
        raise UsageError(
            f"the score is to come from the {pipeline.score_on} split, but task {pipeline.task.name!r} has none here",
            "give it one (validation, or validation_size), or score on test",
        )
    return rows
