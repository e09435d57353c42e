"""One backbone and what is attached to it, turn by turn: the timed work itself.

The frozen backbone has its turns among those of the techniques, on the same weights in the same process, and each round
gives one ratio to it. A machine that gets slower or busier does so for both.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from refarch import Adaptation, ConfiguredTechnique, Registry, attach, load
from refarch.errors import CompositionError, UsageError
from refarch_compare.measure.memory import peak_bytes
from refarch_compare.measure.report import Setting
from refarch_compare.one_step import inputs_of, loss_of
from refarch_compare.storages import Saved


class Bench:
    """Runs steps and calls of one model and times them.

    Args:
        model: the frozen backbone, nothing attached.
        setting: the conditions.
        registry: where techniques are looked up.

    Raises:
        UsageError: the model takes no tokens.
    """

    def __init__(self, model: PreTrainedModel, setting: Setting, registry: Registry) -> None:
        self.model, self.setting, self.registry = model, setting, registry
        self.device = next(model.parameters()).device
        self.inputs = _inputs(model, setting, self.device)

    # attaching -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def attached(self, techniques: Sequence[tuple[str, ConfiguredTechnique]], head: bool) -> Iterator[list[Adaptation]]:
        """Fresh modules, ready to train; ``head`` trains along with the first."""
        done: list[Adaptation] = []
        with contextlib.ExitStack() as undo:
            for name, technique in techniques:
                first = head and not done
                choices: dict[str, Any] = {"seed": self.setting.seed, "train_head": first, "registry": self.registry}
                done.append(attach(self.model, technique, name=name, **choices))
                undo.callback(done[-1].detach)
            yield done

    @contextlib.contextmanager
    def loaded(self, folders: Sequence[Path], suffix: str = "") -> Iterator[list[Adaptation]]:
        """Saved modules, as they serve."""
        done: list[Adaptation] = []
        with contextlib.ExitStack() as undo:
            for folder in folders:
                name = f"{folder.name}{suffix}" if suffix else None
                done.append(load(self.model, folder, name=name, registry=self.registry))
                undo.callback(done[-1].detach)
            yield done

    # the work ------------------------------------------------------------------------------------------------------

    def train(self, adaptations: Sequence[Adaptation]) -> Trainer:
        """What a training step is made of; the frozen backbone's own without adaptations."""
        return Trainer(self, adaptations)

    def forward(self) -> Tensor:
        """A training step's loss."""
        with self._precision():
            output = self.model(**self.inputs)
        return loss_of(output)

    def call(self) -> None:
        """One forward pass without gradients, in evaluation mode."""
        with torch.no_grad(), self._precision():
            self.model(**self.inputs, **({"use_cache": False} if hasattr(self.model.config, "use_cache") else {}))

    def time(self, work: Callable[[], object], repeats: int, warm_up: int = 1) -> float:
        """Median seconds, after some that do not count."""
        spent = []
        for number in range(repeats + warm_up):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            if number >= warm_up:
                spent.append(time.perf_counter() - began)
        return statistics.median(spent)

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.setting.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.setting.precision))

    def swap(self, folders: Sequence[Path]) -> list[float] | None:
        """Seconds from one set of adaptations to an equal one that is attached too; None if the model holds no two."""
        found = []
        try:
            with self.loaded(folders) as one, self.loaded(folders, "-other") as other:
                pair = [one, other]
                _switch(other, False)
                for number in range(2 * self.setting.rounds):
                    self.wait()
                    began = time.perf_counter()
                    _switch(pair[number % 2], False)
                    _switch(pair[1 - number % 2], True)
                    self.wait()
                    found.append(time.perf_counter() - began)
        except CompositionError:
            return None
        return found


class Trainer:
    """Training steps of what is attached.

    Args:
        bench: the model and its inputs.
        adaptations: what trains; without any, gradients go down to the embedded inputs and nothing is updated.
    """

    def __init__(self, bench: Bench, adaptations: Sequence[Adaptation]) -> None:
        self.bench, self.adaptations = bench, adaptations
        self.trained = [p for adaptation in adaptations for p in adaptation.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-6) if self.trained else None

    def loss(self) -> Tensor:
        """With what the functions add to it."""
        loss = self.bench.forward()
        for adaptation in self.adaptations:
            loss = loss + adaptation.penalty()
        return loss

    def step(self) -> None:
        """Forward, backward, update."""
        self.loss().backward()  # type: ignore[no-untyped-call]
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    @contextlib.contextmanager
    def ready(self) -> Iterator[Trainer]:
        """The model in training mode; without adaptations, with gradients of the embedded inputs."""
        model = self.bench.model
        model.train()
        with contextlib.ExitStack() as stack:
            stack.callback(model.eval)
            if not self.adaptations:
                stack.enter_context(_gradients_of_inputs(model))
            yield self

    def held(self) -> list[Tensor]:
        """Tensors that are there between steps."""
        model = self.bench.model
        states = self.optimizer.state.values() if self.optimizer else ()
        state = [value for values in states for value in values.values() if isinstance(value, Tensor)]
        # selected copies are no parameters of the model
        own = [parameter for adaptation in self.adaptations for parameter in adaptation.parameters()]
        return [*model.parameters(), *model.buffers(), *own, *state, *self.bench.inputs.values()]

    def peak(self) -> int:
        """Bytes at the peak of a step; the optimizer's state is there by then."""
        self.step()
        return peak_bytes(self.step, self.bench.device, self.held())

    def saved(self) -> int:
        """Bytes kept for the backward pass."""
        saved = Saved(self.held())
        with saved.hooks():
            self.loss()
        return saved.bytes


def _inputs(model: PreTrainedModel, setting: Setting, device: torch.device) -> dict[str, Tensor]:
    """Random token ids without padding."""
    words = getattr(model.config.get_text_config(), "vocab_size", None)
    if model.main_input_name != "input_ids" or not words:
        raise UsageError(f"{type(model).__name__} reads no tokens, and only models of text are measured so far")
    generator = torch.Generator().manual_seed(setting.seed)
    shape = (setting.batch, setting.tokens)
    inputs = inputs_of(model, lambda: torch.randint(min(5, words - 1), words, shape, generator=generator))
    return {name: tensor.to(device) for name, tensor in inputs.items()}


@contextlib.contextmanager
def _gradients_of_inputs(model: PreTrainedModel) -> Iterator[None]:
    """Freeze all, and ask for gradients of the embedded inputs, wherever the model looks them up."""
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    weight = model.get_input_embeddings().weight
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) and module.weight is weight]
    model.requires_grad_(False)
    handles = [module.register_forward_hook(_ask_gradient) for module in tables]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, wanted in asked:
            parameter.requires_grad_(wanted)


def _ask_gradient(module: Any, inputs: Any, output: Tensor) -> Tensor:
    return output.detach().requires_grad_(True)


def _switch(adaptations: Sequence[Adaptation], on: bool) -> None:
    for adaptation in adaptations:
        adaptation.enabled = on
