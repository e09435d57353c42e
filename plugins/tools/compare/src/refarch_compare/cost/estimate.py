"""What a technique costs on a backbone before training."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from transformers import PreTrainedModel

from refarch import Adaptation, ConfiguredTechnique
from refarch.architecture import Spec
from refarch.errors import RefarchError
from refarch.pipeline import seeds
from refarch_compare.attached import attached
from refarch_compare.cost import step
from refarch_compare.cost.backbone import Backbone
from refarch_compare.cost.ledger import Kernels
from refarch_compare.storages import storage_bytes


@dataclasses.dataclass(frozen=True)
class Setting:
    """How it would be trained.

    Attributes:
        batch: examples a step.
        tokens: of each example, none of them padding.
        optimizer: whose state is counted.
        device: whose kernels decide what is kept (:class:`~refarch_compare.cost.ledger.Kernels`).
        train_head: whether the model's head trains along.
        seed: of the run; the length of a checkpoint depends on its digits.
        run: False to count parameters and bytes alone.
        checkpointing: whether layers run again in the backward pass instead of keeping what they computed.
        memory: bytes that there are, to find the largest batch that fits.
    """

    batch: int = 8
    tokens: int = 128
    optimizer: step.Optimizer = "adamw"
    device: step.Device = "cuda"
    train_head: bool = False
    seed: int = 0
    run: bool = True
    checkpointing: bool = False
    memory: int | None = None


class Operations(Spec):
    """Per token, counted in calls of the setting's batch and tokens; a multiplication or an addition is one."""

    base: float
    """Of the frozen backbone alone, forward."""
    attached: float
    """Forward with the technique attached."""
    training: float
    """Forward and backward in training."""

    @property
    def inference_extra(self) -> float:
        """What the attached technique adds to the forward pass; merged, it adds nothing."""
        return self.attached - self.base

    @property
    def training_extra(self) -> float:
        """What training adds to the frozen backbone's forward pass."""
        return self.training - self.base


class Memory(Spec):
    """Bytes in training."""

    base: int
    """The backbone's weights and buffers."""
    modules: int
    """The technique's parameters and buffers."""
    gradients: int
    optimizer: int
    activations: int
    """Kept for the backward pass."""
    peak: int
    """The most that is held at once, all of the above included as far as it is there at that moment."""


class Estimate(Spec):
    """What a technique costs on a backbone."""

    technique: str
    """As it was asked for."""
    spec: ConfiguredTechnique
    backbone: str
    dtype: str
    total_parameters: int
    """The backbone's."""
    trainable_parameters: int
    """All that trains: modules and head."""
    module_parameters: int
    """The technique's that train."""
    frozen_parameters: int
    """The technique's that do not."""
    saved_bytes: int
    """Of a checkpoint, both of its files."""
    not_merged_because: tuple[str, ...]
    """Empty if it merges into the base weights exactly."""
    batch: int
    tokens: int
    operations: Operations | None = None
    memory: Memory | None = None
    largest_batch: int | None = None

    @property
    def merges(self) -> bool:
        """Whether nothing is left of it at inference."""
        return not self.not_merged_because

    def plain(self) -> dict[str, Any]:
        """As JSON, with what follows from the figures."""
        data = self.model_dump(mode="json", exclude={"spec"})
        data["options"] = self.spec.options
        data["merges"] = self.merges
        if self.operations:
            data["operations"] |= {
                "inference_extra": self.operations.inference_extra,
                "inference_extra_merged": 0.0 if self.merges else None,
                "training_extra": self.operations.training_extra,
            }
        return data


class Refusal(Spec):
    """A technique that does not exist on a backbone."""

    technique: str
    backbone: str
    refused: str

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return self.model_dump(mode="json")


class Estimator:
    """Estimates of several techniques on one backbone, whose own costs are counted once.

    Args:
        backbone: on the meta device; nothing stays attached to it.
        setting: how techniques would be trained.
    """

    def __init__(self, backbone: Backbone, setting: Setting | None = None) -> None:
        self.backbone, self.setting = backbone, setting or Setting()
        if self.setting.checkpointing:
            again = lambda: (contextlib.nullcontext(), Kernels(self.setting.device))  # noqa: E731 - modes end with forward
            kwargs = {"use_reentrant": False, "context_fn": again}
            backbone.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
        self._base_bytes = storage_bytes(step.tensors(backbone.model))
        self._base_operations: int | None = None

    def try_estimate(self, technique: ConfiguredTechnique, label: str = "") -> Estimate | Refusal:
        """The estimate, or why there is none."""
        try:
            return self.estimate(technique, label)
        except RefarchError as error:
            return Refusal(technique=label or technique.name, backbone=self.backbone.label, refused=error.message)

    def estimate(self, technique: ConfiguredTechnique, label: str = "") -> Estimate:
        """What a technique costs.

        Raises:
            SlotError: the technique's slots are missing on this backbone.
            SpecError: an option's value does not suit it.
            UsageError: the model cannot be run without weights.
        """
        model, setting = self.backbone.model, self.setting
        total = self.backbone.parameters
        if setting.run and self._base_operations is None:
            self._base_operations = step.inference(model, setting.batch, setting.tokens, setting.device)
        with_head = setting.train_head and not technique.selects_head
        seed = seeds(setting.seed).modules
        with _evaluating(model), attached(model, technique, seed=seed, train_head=with_head) as adaptation:
            counted = self._run(adaptation) if setting.run else {}
            return Estimate(
                technique=label or technique.name,
                spec=technique,
                backbone=self.backbone.label,
                dtype=self.backbone.dtype,
                total_parameters=total,
                trainable_parameters=adaptation.count(),
                module_parameters=adaptation.count(head=False),
                frozen_parameters=adaptation.count(trainable=False) - adaptation.count(),
                saved_bytes=adaptation.saved_bytes(),
                not_merged_because=_distinct(adaptation.merge_reasons(in_memory=False)),
                batch=setting.batch,
                tokens=setting.tokens,
                **counted,
            )

    def _run(self, adaptation: Adaptation) -> dict[str, Any]:
        """The fields that take a pass through the model."""
        model, setting = self.backbone.model, self.setting
        assert self._base_operations is not None
        calls = setting.batch * setting.tokens
        attached = step.inference(model, setting.batch, setting.tokens, setting.device)
        modules = storage_bytes([*adaptation.parameters(), *adaptation.tree.buffers()])
        held = self._base_bytes + modules

        @functools.cache
        def train(batch: int) -> step.Step:
            return step.training(model, adaptation, batch, setting.tokens, setting.optimizer, setting.device)

        once = train(setting.batch)
        operations = Operations(
            base=self._base_operations / calls, attached=attached / calls, training=once.operations / calls
        )
        memory = Memory(
            base=self._base_bytes,
            modules=modules,
            gradients=once.gradient_bytes,
            optimizer=once.optimizer_bytes,
            activations=once.activation_bytes,
            peak=held + once.peak_bytes,
        )
        largest = None
        if setting.memory is not None:
            largest = largest_batch(lambda batch: held + train(batch).peak_bytes, setting.memory)
        return {"operations": operations, "memory": memory, "largest_batch": largest}


@contextlib.contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Leave the model in evaluation mode, whatever happens."""
    try:
        yield
    finally:
        model.eval()


def largest_batch(peak: Callable[[int], int], limit: int) -> int:
    """The largest batch whose peak is within a limit; 0 if not even one example's is.

    Args:
        peak: bytes for a batch; grows with it, nearly in proportion.
        limit: bytes.
    """
    known = {1: peak(1)}
    if known[1] > limit:
        return 0
    known[2] = peak(2)
    while True:
        fits = max(batch for batch, size in known.items() if size <= limit)
        beyond = min((batch for batch, size in known.items() if size > limit), default=None)
        if beyond == fits + 1:
            return fits
        low, high = (fits, beyond) if beyond else sorted(known)[-2:]
        guess = fits + int((limit - known[fits]) * (high - low) / max(1, known[high] - known[low]))
        guess = max(guess, fits + 1) if beyond is None else min(max(guess, fits + 1), beyond - 1)
        known[guess] = peak(guess)


def _distinct(reasons: Sequence[str]) -> tuple[str, ...]:
    """Each reason once, with the number of places that have it."""
    places: dict[str, list[str]] = {}
    for reason in reasons:
        place, _, why = reason.partition(": ")
        places.setdefault(why, []).append(place)
    return tuple(
        f"{why} ({own[0]}{f' and {len(own) - 1} more' if len(own) > 1 else ''})" for why, own in places.items()
    )
