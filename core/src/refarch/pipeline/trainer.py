"""transformers' Trainer with what a run adds: checkpoints of adaptations only, an order of data that a resumed run
repeats, a stop at a loss that is not finite, metrics on file and progress on screen.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import IntervalStrategy

from refarch.engine import adaptations
from refarch.engine.adaptation.training import rescale
from refarch.engine.checkpoints.reading import read
from refarch.errors import RunError
from refarch.files import write_text
from refarch.pipeline.progress import Progress
from refarch.pipeline.run_folder import COMPLETE, RunFolder
from refarch.plugins import Registry
from refarch.tasks.evaluation import tokens


class EpochSampler(Sampler[int]):
    """A random order that depends on the seed and the epoch alone, so a run resumed inside an epoch repeats it.

    Args:
        rows: the training split.
        batch_size: examples an optimizer step.
        seed: the data seed.
        lengths: tokens of each example, to group like lengths into batches; None for a plain shuffle.
    """

    def __init__(self, rows: Sized, batch_size: int, seed: int, lengths: list[int] | None) -> None:
        self.rows, self.batch_size, self.seed, self.lengths = rows, batch_size, seed, lengths
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self.seed + self.epoch)
        if self.lengths is None:
            yield from torch.randperm(len(self), generator=generator).tolist()
        else:
            yield from get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)


@contextlib.contextmanager
def _as_adapted(model: PreTrainedModel) -> Iterator[None]:
    """Trainer refuses a quantised model unless transformers' own peft integration has marked it as adapted."""
    mark, own = "_hf_peft_config_loaded", vars(model)
    marks = getattr(model, "is_quantized", False) and adaptations(model) and mark not in own
    if marks:
        own[mark] = True
    try:
        yield
    finally:
        if marks:
            del own[mark]


Score = Callable[[PreTrainedModel, Any, int], dict[str, float]]


class AdaptationTrainer(Trainer):
    """Trains what is attached to a model.

    Args:
        data_seed: decides the order of the training data.
        grouped: whether batches hold examples of like length.
        score: of a task that asks the model in its own way: all metrics from the model, a split and a batch size.
        folder: the run's, in whose messages the last good checkpoint is named; none outside of a run.
        kwargs: Trainer's own.
    """

    def __init__(
        self,
        *,
        data_seed: int,
        grouped: bool,
        score: Score | None = None,
        folder: RunFolder | None = None,
        **kwargs: Any,
    ) -> None:
        with _as_adapted(kwargs["model"]):
            super().__init__(**kwargs)
        self.data_seed, self.grouped, self.score, self.folder = data_seed, grouped, score, folder
        self.order: EpochSampler | None = None
        self.add_callback(ScheduleCallback(self))

    @torch.no_grad()
    def check_loss(self, rows: Any) -> None:
        """Find out whether the model divides its loss by the number of items that it is told.

        Trainer takes that for granted where ``forward`` accepts more arguments. A model that ignores the number would
        get a loss and gradients too large by the number of accumulated batches and of processes.
        """
        if not self.model_accepts_loss_kwargs or not len(rows):
            return
        assert isinstance(self.model, nn.Module)
        training = self.model.training
        self.model.eval()
        batch = self._prepare_inputs(self.data_collator([rows[0]]))
        plain = self.model(**batch).loss
        told = self.model(**batch, num_items_in_batch=torch.tensor(2**20)).loss
        self.model_accepts_loss_kwargs = plain is not None and not torch.equal(plain, told)
        self.model.train(training)

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        lengths = [tokens(row) for row in rows] if self.grouped else None
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        self.order = EpochSampler(rows, size, self.data_seed, lengths)
        return self.order

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Trainer's optimizer, with the learning rates that the attached techniques ask for."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if fresh:
            rates = [adaptation.rates() for adaptation in adaptations(self._plain_model())]
            rescale(optimizer, {parameter: rate for own in rates for parameter, rate in own.items()})
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The model's loss and, in training, what the attached functions add to it."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            terms = [adaptation.penalty() for adaptation in adaptations(self._plain_model())]
            loss = loss + sum(term.to(loss.device) for term in terms) / self._shares(num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _shares(self, num_items: torch.Tensor | int | None) -> int:
        """In how many micro-batches of an optimizer step a term that is not a mean over examples comes, undivided.

        A loss that is told the number of items is divided by the step's; any other is a mean over the micro-batch, and
        Trainer divides it by their number.
        """
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is None:
            told = self.model_accepts_loss_kwargs and num_items is not None
            scaled = told or self.compute_loss_func is not None
        return self.current_gradient_accumulation_steps if scaled else 1

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch.

        Raises:
            RunError: the loss is not finite.
        """
        loss = super().training_step(model, *args, **kwargs)
        if not bool(torch.isfinite(loss)):
            raise RunError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; {self.last_good()}",
                "lower training.learning_rate, raise training.warmup, or train in float32",
            )
        return loss

    def last_good(self) -> str:
        """Which checkpoint a run that has failed would go on from, for its message."""
        last = self.folder.last_checkpoint() if self.folder else None
        return f"the last good checkpoint is {last or 'none yet'}"

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Metrics of a split, by Trainer's own loop over logits or in the task's own way."""
        if self.score is None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        model = self._plain_model()
        training = model.training
        model.to(self.args.device).eval()  # type: ignore[arg-type]
        try:
            with torch.no_grad(), self.compute_loss_context_manager():
                values = self.score(model, rows, self.args.per_device_eval_batch_size)
        finally:
            model.train(training)
        metrics = {f"{metric_key_prefix}_{name}": float(value) for name, value in values.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        for adaptation in adaptations(self._plain_model()):
            adaptation.save(Path(output_dir or str(self.args.output_dir)) / adaptation.name, for_training=True)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            write_text(folder / COMPLETE, "")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        for adaptation in adaptations(self._plain_model()):
            _, tensors = read(Path(resume_from_checkpoint) / adaptation.name)
            adaptation.load_state_dict(tensors)

    def _plain_model(self) -> PreTrainedModel:
        model = self.accelerator.unwrap_model(self.model)
        assert isinstance(model, PreTrainedModel)
        return model


class ScheduleCallback(TrainerCallback):
    """Lets the schedules of what is attached act after each optimizer step, while its gradients are there.

    Args:
        trainer: whose model it is.
    """

    def __init__(self, trainer: AdaptationTrainer) -> None:
        self.trainer = trainer

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any
    ) -> None:
        """A step was made, or skipped because gradients in float16 had overflowed."""
        if self.trainer.accelerator.optimizer_step_was_skipped:
            return
        for adaptation in adaptations(self.trainer._plain_model()):
            adaptation.after_step(state.global_step + 1, state.max_steps)


class RunCallback(TrainerCallback):
    """Metrics on file, observers told, progress shown.

    Every line of metrics has ``seconds``: the wall-clock time of the steps that led to it, without evaluations,
    checkpoints and what a kill has lost.

    Args:
        folder: the run's.
        registry: whose observers are told.
        progress: the display.
    """

    def __init__(self, folder: RunFolder, registry: Registry, progress: Progress) -> None:
        self.folder, self.registry, self.progress = folder, registry, progress
        self.trainer: AdaptationTrainer | None = None
        self.split = "validation"
        self.seconds = 0.0
        self._mark = 0.0

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Tell the sampler which epoch begins."""
        if self.trainer is not None and self.trainer.order is not None:
            self.trainer.order.epoch = int(state.epoch or 0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Stop the clock, move the display, and evaluate at the end too if that is done on the way."""
        now = time.perf_counter()
        self.seconds, self._mark = self.seconds + now - self._mark, now
        self.progress.step(state.global_step, state.max_steps)
        if state.global_step >= state.max_steps and args.eval_strategy != IntervalStrategy.NO:
            control.should_evaluate = True

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Start the clock of the steps."""
        self._mark = time.perf_counter()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """A checkpoint's time is no training time."""
        self._mark = time.perf_counter()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kw: Any,
    ) -> None:
        """Write training metrics; evaluations have their own hook."""
        values = {k: v for k, v in (logs or {}).items() if isinstance(v, (int, float)) and math.isfinite(v)}
        if not state.is_world_process_zero or "loss" not in values:
            return
        self._write("train", state, values)
        self.progress.show(values)
        self.registry.manager.hook.refarch_step(
            folder=self.folder.path, step=state.global_step, total=state.max_steps, metrics=values
        )

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kw: Any,
    ) -> None:
        """Write evaluation metrics."""
        if not state.is_world_process_zero:
            return
        values = {k.removeprefix("eval_"): float(v) for k, v in (metrics or {}).items() if k.startswith("eval_")}
        self._write(self.split, state, values)
        self.registry.manager.hook.refarch_evaluated(
            folder=self.folder.path, step=state.global_step, total=state.max_steps, split=self.split, metrics=values
        )
        self._mark = time.perf_counter()

    def _write(self, split: str, state: TrainerState, values: dict[str, float]) -> None:
        self.folder.log({"step": state.global_step, "split": split, "seconds": round(self.seconds, 4), **values})
