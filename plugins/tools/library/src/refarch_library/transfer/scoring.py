"""The score of what is attached to a pipeline's backbone, without training it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refarch import PipelineSpec, Pool, Registry, Task, engine, load
from refarch.errors import CheckpointError, UsageError
from refarch.pipeline import assemble, quiet, score_split
from refarch.plugins import resolve_pipeline
from refarch.tasks import Rows, collect


def score(
    task: Task, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Rows, batch_size: int
) -> dict[str, float]:
    """All metrics of a split: what a run's own evaluation gives."""
    was = model.training
    model.eval()
    try:
        with torch.inference_mode(), quiet():
            if task.asks_itself:
                return task.scores(model, tokenizer, rows, batch_size)
            logits = collect(model, rows, task.collator(tokenizer), batch_size, ["logits"])["logits"]
    finally:
        model.train(was)
    if len({tuple(row.shape) for row in logits}) > 1:
        raise UsageError("this task's outputs have no common shape, so that its metrics cannot be computed here")
    labels = np.asarray([rows[index]["labels"] for index in range(len(rows))])
    return task.metrics(torch.stack(logits).numpy(), labels)


def score_start(pipeline: PipelineSpec, registry: Registry, pool: Pool) -> float:
    """The score that a pipeline's run begins with: its techniques at their starting values, before any training."""
    resolved = resolve_pipeline(pipeline, registry)
    with pool.turn():
        parts = assemble(resolved, registry=registry, pool=pool)
        rows = score_split(resolved, parts.data)
        found = score(parts.task, parts.model, parts.tokenizer, rows, resolved.training.eval_batch_size)
    return found[parts.task_spec.metric]


def score_saved(
    pipeline: PipelineSpec,
    folders: Sequence[Path],
    registry: Registry,
    pool: Pool,
    labels: Mapping[int, str] | None = None,
) -> float:
    """The score of saved adaptations on a pipeline's task; its techniques and training are left out of it.

    Args:
        pipeline: names the backbone and the task.
        folders: of the adaptations, in their order.
        registry: where names are looked up.
        pool: keeps the backbone and the data for the next call.
        labels: what their head tells apart; the task must tell the same apart. Not compared when left out.

    Raises:
        CheckpointError: they do not fit its backbone under the task's head.
    """
    resolved = resolve_pipeline(pipeline, registry)
    with pool.turn():
        base = pool.take(resolved, registry)
        here = engine.labels(base.model)
        if labels is not None and dict(labels) != here:
            names = [", ".join(each.values()) or "none" for each in (labels, here)]
            raise CheckpointError(f"its head's labels are {names[0]}, the task's {names[1]}")
        done = [load(base.model, folder, registry=registry) for folder in folders]
        base.task.check_model(base.model)
        rows = score_split(resolved, base.data)
        found = score(base.task, base.model, base.tokenizer, rows, resolved.training.eval_batch_size)
        for adaptation in reversed(done):
            adaptation.detach()
    return found[base.spec.metric]
