"""Run a pipeline: load, attach, train, evaluate, save, record. Killed at any moment, it resumes to the same result."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import EvalPrediction, PreTrainedModel, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, TrainerState

from refarch.architecture import PipelineSpec, RunRecord
from refarch.errors import RefarchError, RunError, UsageError
from refarch.files import read_json, write_text
from refarch.pipeline.assembly import Assembled, assemble, score_split
from refarch.pipeline.backbone import quiet_transformers
from refarch.pipeline.pool import Pool
from refarch.pipeline.process_memory import reset_peak
from refarch.pipeline.progress import Progress
from refarch.pipeline.record import Clock, record_of
from refarch.pipeline.run_folder import RunFolder, new_folder
from refarch.pipeline.threads import torch_threads
from refarch.pipeline.trainer import AdaptationTrainer, RunCallback
from refarch.plugins import Registry, ResolvedPipeline, default_registry, look_up


def run(
    pipeline: PipelineSpec | ResolvedPipeline,
    folder: Path | str | None = None,
    *,
    registry: Registry | None = None,
    progress: bool = False,
    pool: Pool | None = None,
) -> tuple[RunRecord, Path]:
    """Run a pipeline in a folder, or take up again what a killed run left there.

    Args:
        pipeline: what to run; looked up here, once, unless it is already.
        folder: the run's folder; a new one below ``runs/`` when left out. A finished run is not run again: its
            record is returned.
        registry: where names are looked up; the installed plugins when left out.
        progress: show progress on standard error.
        pool: shares the backbone and the data with this process's other runs that are given it, which changes no
            result.

    Returns:
        The record and the run's folder.

    Raises:
        UsageError: a name, an option, the data or the folder does not fit; a distributed run without a folder.
        RunError: training failed; says where the last good state is.
    """
    registry = registry or default_registry()
    resolved = look_up(pipeline, registry)
    if folder is None and _processes() > 1:
        raise UsageError("a run of several processes needs a folder that all of them know", "give one with --out")
    path = Path(folder) if folder is not None else new_folder(Path("runs"), resolved.pipeline)
    files = RunFolder(path, writes=int(os.environ.get("RANK", "0")) == 0)
    progress = progress and files.writes
    with files.held():
        files.check(resolved.pipeline)
        done = files.finished()
        if done is not None:
            return done, files.path
        turn = pool.turn() if pool else contextlib.nullcontext()
        with torch_threads(resolved.pipeline.training.threads) as threads, Progress(progress) as display, turn:
            return _run(resolved, files, registry, display, threads, pool), files.path


def _run(
    resolved: ResolvedPipeline, files: RunFolder, registry: Registry, display: Progress, threads: int, pool: Pool | None
) -> RunRecord:
    pipeline = resolved.pipeline
    reset_peak()
    clock = Clock.started(files)
    registry.observers()
    display.phase(f"loading {pipeline.backbone.name} and {pipeline.task.name}")
    with clock.phase("load"):
        parts = assemble(resolved, registry=registry, pool=pool)
        rows = score_split(pipeline, parts.data)
        files.claim(pipeline)
    count = sum(adaptation.count() for adaptation in parts.adaptations)
    display.phase(
        f"training {count:,} parameters ({count / parts.total_parameters:.2%} of {parts.total_parameters:,}) on"
        f" {len(parts.data.train):,} examples, {threads} threads"
    )
    registry.manager.hook.refarch_pipeline_built(pipeline=pipeline, folder=files.path)
    trainer = _trainer(parts, files, registry, display)
    checkpoint = files.last_checkpoint()
    trainer.callback.seconds = files.rewind(int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)
    if checkpoint:
        display.phase(f"resuming from {checkpoint.name}")
    with clock.phase("train"), quiet_transformers(), _explained("training", trainer):
        _train(trainer, checkpoint)
    display.stop()
    display.phase(f"evaluating on {len(rows):,} {pipeline.score_on} examples")
    with clock.phase("evaluate"), quiet_transformers(), _explained("evaluation", trainer):
        trainer.callback.split = pipeline.score_on
        metrics = trainer.evaluate(rows)  # type: ignore[arg-type]
    if not files.writes:
        trainer.accelerator.wait_for_everyone()
        return RunRecord.parse(read_json(files.record), str(files.record))
    saved = [adaptation.save(files.path / "adaptations" / adaptation.name) for adaptation in parts.adaptations]
    record = record_of(parts, files, clock, trainer, metrics, saved, threads)
    write_text(files.record, record.to_json())
    trainer.accelerator.wait_for_everyone()
    if not pipeline.training.keep_checkpoints:
        shutil.rmtree(files.checkpoints, ignore_errors=True)
    registry.manager.hook.refarch_run_finished(record=record, folder=files.path)
    return record


def _processes() -> int:
    """How many processes a launcher (``accelerate launch``, ``torchrun``) has started for this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class _RunTrainer(AdaptationTrainer):
    callback: RunCallback


def _trainer(parts: Assembled, files: RunFolder, registry: Registry, display: Progress) -> _RunTrainer:
    training = parts.pipeline.training
    names = [name for name in ("labels", "start_positions", "end_positions") if name in parts.data.train[0]]

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        outputs = prediction.predictions
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        return parts.task.metrics(logits, prediction.label_ids)  # type: ignore[arg-type]

    def score(model: PreTrainedModel, rows: Any, batch_size: int) -> dict[str, float]:
        return parts.task.scores(model, parts.tokenizer, rows, batch_size)

    callback = RunCallback(files, registry, display)
    trainer = _RunTrainer(
        model=parts.model,
        args=_arguments(parts, files),
        train_dataset=parts.data.train,
        eval_dataset=parts.data.validation,
        data_collator=parts.task.collator(parts.tokenizer),
        compute_metrics=compute,
        callbacks=[callback],
        data_seed=parts.seeds.data,
        grouped=training.group_by_length,
        score=score if parts.task.asks_itself else None,
        folder=files,
    )
    trainer.label_names = names or ["labels"]
    trainer.remove_callback(PrinterCallback)
    trainer.check_loss(parts.data.train)
    trainer.callback, callback.trainer = callback, trainer
    return trainer


def _arguments(parts: Assembled, files: RunFolder) -> TrainingArguments:
    t = parts.pipeline.training
    batch = t.batch_size * t.gradient_accumulation * _processes()
    steps = t.max_steps or math.ceil(len(parts.data.train) / batch * t.epochs)
    every = t.evaluate_every or (math.ceil(steps / t.evaluations) if t.evaluations else None)
    evaluate = bool(every and parts.data.validation is not None and len(parts.data.validation))
    return TrainingArguments(
        output_dir=str(files.checkpoints),
        num_train_epochs=t.epochs,
        max_steps=t.max_steps or -1,
        per_device_train_batch_size=t.batch_size,
        per_device_eval_batch_size=t.eval_batch_size,
        gradient_accumulation_steps=t.gradient_accumulation,
        learning_rate=t.learning_rate,
        weight_decay=t.weight_decay,
        warmup_steps=math.ceil(t.warmup * steps),
        lr_scheduler_type=t.schedule,
        max_grad_norm=t.max_grad_norm,
        bf16=t.precision == "bfloat16",
        fp16=t.precision == "float16",
        logging_strategy="steps",
        logging_steps=t.log_every,
        logging_first_step=True,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=t.save_every or max(1, steps // 10),
        save_total_limit=2,
        seed=parts.seeds.data,
        data_seed=parts.seeds.data,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.accelerator.is_available(),  # without it, several processes on CPU would train apart
    )


def _train(trainer: AdaptationTrainer, checkpoint: Path | None) -> None:
    """Train, from a checkpoint on if there is one. One of the last step is only loaded: Trainer would go a step further
    where that is within an epoch.
    """
    if checkpoint is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    if state.global_step < state.max_steps:
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return
    state.is_local_process_zero = trainer.is_local_process_zero()
    state.is_world_process_zero = trainer.is_world_process_zero()
    trainer.state = state
    trainer._load_from_checkpoint(str(checkpoint))


@contextlib.contextmanager
def _explained(what: str, trainer: AdaptationTrainer) -> Iterator[None]:
    """Say where a run failed, and how it goes on."""
    try:
        yield
    except RefarchError:
        raise
    except (RuntimeError, OSError, ValueError, IndexError) as error:  # no memory is a RuntimeError too
        raise RunError(
            f"{what} failed at step {trainer.state.global_step}: {type(error).__name__}: {error}",
            f"{trainer.last_good()}; run the pipeline again in the same folder to resume",
        ) from error
