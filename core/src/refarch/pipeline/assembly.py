"""A pipeline's parts, loaded and attached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refarch.architecture import Formulation, PipelineSpec, Seeds, TaskSpec
from refarch.engine import Adaptation
from refarch.engine.adaptation.attach import attach
from refarch.engine.adaptation.load import start_from
from refarch.pipeline.backbone import configured, seeds
from refarch.pipeline.pool import Pool
from refarch.plugins import Registry, default_registry
from refarch.tasks.task import Data, Task


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


def assemble(pipeline: PipelineSpec, *, registry: Registry | None = None, pool: Pool | None = None) -> Assembled:
    """Load a resolved pipeline's data and model and attach its techniques.

    Args:
        pipeline: all options and training fields decided.
        registry: where names are looked up; the installed plugins when left out.
        pool: what earlier runs of this process have loaded; everything is loaded when left out.

    Raises:
        RefarchError: with the cause, whatever part of it cannot be had.
    """
    registry = registry or default_registry()
    own_seeds = seeds(pipeline.seed)
    base = (pool or Pool()).take(pipeline, registry)
    model, formulation = base.model, base.formulation
    total = sum(p.numel() for p in model.parameters())
    if pipeline.training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    attached: list[Adaptation] = []
    for choice, (label, technique) in zip(pipeline.techniques, configured(pipeline, registry), strict=True):
        first = not attached
        attached.append(
            attach(
                model,
                technique,
                name=label,
                seed=own_seeds.modules,
                train_head=formulation.new_head and first and not technique.selects_head,
                registry=registry,
            )
        )
        if choice.start is not None:
            start_from(attached[-1], Path(choice.start))
    base.task.check_model(model)
    return Assembled(
        pipeline, base.spec, formulation, base.task, base.data, model, base.tokenizer, attached, own_seeds, total
    )
