"""One training step and one call on the meta device, counted: operations, and bytes that are held."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from refarch import Adaptation
from refarch.errors import UsageError
from refarch_compare.cost.ledger import Kernels, Ledger
from refarch_compare.one_step import inputs_of, loss_of
from refarch_compare.storages import Saved

Optimizer = Literal["adamw", "sgd"]
Device = Literal["cuda", "cpu"]
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


class Step(NamedTuple):
    """What a training step costs. Bytes are beside the model and the modules."""

    operations: int
    """Of the forward and the backward pass."""
    activation_bytes: int
    """Kept from the forward pass for the backward pass, without parameters."""
    gradient_bytes: int
    optimizer_bytes: int
    """The state that the optimizer keeps from step to step."""
    peak_bytes: int
    """The most that is held at once: optimizer state, activations, gradients and what is made in passing."""


def tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def inference(model: PreTrainedModel, batch: int, tokens: int, device: Device = "cuda") -> int:
    """Operations of one call, without a cache; the model as it is, with what is attached and enabled."""
    model.eval()
    with torch.no_grad(), _counted(), Kernels(device), Ledger() as ledger:
        model(**_inputs(model, batch, tokens))
    return ledger.operations


def training(
    model: PreTrainedModel,
    adaptation: Adaptation,
    batch: int,
    tokens: int,
    optimizer: Optimizer = "adamw",
    device: Device = "cuda",
) -> Step:
    """A step in which what is attached trains: two calls of the optimizer, so that its state is there in the second.

    The loss is a cross entropy over the model's output in float32, as transformers' losses are.
    """
    model.train()
    trained = [parameter for parameter in adaptation.parameters() if parameter.requires_grad]
    held = [*tensors(model), *adaptation.parameters()]
    with _counted(), Kernels(device), Ledger(held) as ledger:
        stepper = _OPTIMIZERS[optimizer](trained, lr=1e-3, foreach=False) if trained else None
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        gradients = ledger.live
        if stepper is not None:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        state = ledger.live
        inputs = _inputs(model, batch, tokens)
        ledger.restart()
        saved = Saved([*held, *inputs.values()])
        with saved.hooks():
            loss = loss_of(model(**inputs)) + adaptation.penalty()
        loss.backward()  # type: ignore[no-untyped-call]
        operations = ledger.operations
        del loss
        if stepper is not None:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
    return Step(operations, saved.bytes, gradients, state, ledger.peak)


def _inputs(model: PreTrainedModel, batch: int, tokens: int) -> dict[str, Tensor]:
    """Without values."""
    return inputs_of(model, lambda: torch.ones((batch, tokens), dtype=torch.long, device="meta"))


@contextlib.contextmanager
def _counted() -> Iterator[None]:
    """Say in plain words that a model cannot be run without values."""
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        raise UsageError(
            f"the model cannot be run without weights: {str(error).splitlines()[0]}",
            "fewer --tokens, if the model takes no so long input; else its code depends on values, and only parameters"
            " and bytes can be told: --no-run",
        ) from error
