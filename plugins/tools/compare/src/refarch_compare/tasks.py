"""What a task asks of a model: its data are read for it, as a run would read them."""

from __future__ import annotations

from typing import Any

from refarch import Formulation, PipelineSpec, Registry, pipeline as pipelines


def model_arguments(pipeline: PipelineSpec, formulation: Formulation, registry: Registry) -> dict[str, Any]:
    """Arguments for loading the model, such as the number of labels.

    Args:
        pipeline: resolved.
        formulation: how its task is put to its backbone.
        registry: where the task is looked up.

    Raises:
        DataError: the task's data cannot be read.
    """
    spec = registry.task(pipeline.task.name)
    from refarch.tasks import make_task  # loads torch

    task = make_task(spec, pipeline.task.options, formulation.name)
    task.read(pipelines.seeds(pipeline.seed).data)
    return task.model_arguments()
