"""What could be used: every installed technique on one backbone, counted on the engine's modules without weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from refarch import ConfiguredTechnique, Registry, TechniqueSpec
from refarch.architecture import BackboneChoice
from refarch.errors import RefarchError, UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

TRAINED_BYTES = 16
"""Bytes that a trained float32 parameter needs at least: itself, its gradient and AdamW's two moments."""


@dataclass(frozen=True)
class Limits:
    """What a technique must keep to; None is no limit."""

    trainable: int | None = None
    no_inference_overhead: bool = False
    memory_bytes: int | None = None

    def words(self) -> str:
        """The limits in words."""
        parts = [f"at most {self.trainable:,} trainable parameters" if self.trainable is not None else ""]
        parts.append("nothing extra at inference" if self.no_inference_overhead else "")
        parts.append(f"{self.memory_bytes / 1e9:.3g} GB for training" if self.memory_bytes is not None else "")
        return ", ".join(part for part in parts if part) or "no limits"


@dataclass(frozen=True)
class Candidate:
    """A configured technique with what its structure costs on the backbone."""

    name: str
    """The technique, or ``technique:preset``."""
    options: dict[str, Any]
    spec: ConfiguredTechnique
    trainable: int
    """Parameters that train, with the head where the task has a new one."""
    saved: int
    """Parameters of the modules alone."""
    total: int
    """The backbone's."""
    base_bytes: int
    stays: tuple[str, ...]
    """Why it does not merge; empty if it does, exactly."""
    sized: str = ""
    """What was changed to keep the budget."""
    problems: tuple[str, ...] = field(default=())
    """The limits that it breaks."""

    @property
    def least_memory(self) -> int:
        """Bytes that training needs before any activation: the base, and what is trained."""
        return self.base_bytes + TRAINED_BYTES * self.trainable

    def reasons(self) -> list[str]:
        """What follows from its structure, in words."""
        share = self.trainable / max(1, self.total)
        found = [f"trains {self.trainable:,} parameters ({share:.2%} of the backbone's)" + self.sized]
        if self.stays:
            found.append(f"stays attached at inference: {self.stays[0]}")
        else:
            found.append("merges exactly: nothing extra at inference")
        found.append(f"training needs at least {self.least_memory / 1e9:.3g} GB, before activations")
        return found


class Backbone:
    """A backbone built on the meta device: modules and shapes, no weights.

    Args:
        name: a model plugin, a folder or a hub id that can be reached.
        task: an installed task, whose head counts too where it is new.

    Raises:
        UsageError: its configuration cannot be read.
    """

    def __init__(self, name: str, task: str, registry: Registry) -> None:
        import torch
        import transformers

        from refarch.pipeline.resolve import locate, quiet

        self.name, self.registry = name, registry
        source = locate(BackboneChoice(name=name), registry)
        with quiet():
            try:
                config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
            except (OSError, ValueError) as error:
                models = [model.name for model in registry.models()]
                raise UsageError(
                    f"the configuration of the backbone {name!r} cannot be read: {str(error).splitlines()[0]}",
                    f"give an installed model, a folder or a hub id that can be reached; {did_you_mean(name, models)}",
                ) from None
            self.family = registry.family_for(str(config.model_type))
            auto_class, self.new_head = "AutoModel", False
            if task in registry.names("task"):
                way = registry.task(task).formulation(self.family.kind)
                auto_class, self.new_head = way.auto_class, way.new_head
            with torch.device("meta"):
                self.model = getattr(transformers, auto_class).from_config(config)
        self.total = sum(parameter.numel() for parameter in self.model.parameters())
        self.bytes = sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())

    def candidate(self, name: str, spec: ConfiguredTechnique, options: dict[str, Any], sized: str = "") -> Candidate:
        """Attach a technique, count, and detach it.

        Raises:
            RefarchError: it cannot work on this backbone.
        """
        import torch

        import refarch

        head = self.new_head and not any({"head", "model"} & set(m.workspace) for m in spec.technique.modules)
        with torch.device("meta"):
            adaptation = refarch.attach(self.model, spec, family=self.family, train_head=head, registry=self.registry)
        try:
            with _weights_of_one_number(self.model):
                stays = tuple(adaptation.merge_reasons())
            trainable, saved = adaptation.count(), adaptation.count(trainable=False)
        finally:
            adaptation.detach()
        return Candidate(name, options, spec, trainable, saved, self.total, self.bytes, stays, sized)


@contextlib.contextmanager
def _weights_of_one_number(model: nn.Module) -> Iterator[None]:
    """Put one number, seen at every place, where the meta device has nothing: merging is refused without weights."""
    import torch

    kept: list[tuple[nn.Module, str, nn.Parameter]] = []
    made: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                seen = torch.zeros(1, dtype=parameter.dtype, device="cpu").expand(parameter.shape)
                kept.append((module, name, parameter))
                setattr(module, name, made.setdefault(id(parameter), torch.nn.Parameter(seen, requires_grad=False)))
    try:
        yield
    finally:
        for module, name, parameter in kept:
            setattr(module, name, parameter)


def candidates(backbone: Backbone, limits: Limits) -> tuple[list[Candidate], dict[str, str]]:
    """Every technique and preset that works on the backbone, and why the others do not.

    One that trains too much is made smaller by its size option, as far as that goes; what a technique cannot keep is in
    its ``problems``.
    """
    found: list[Candidate] = []
    impossible: dict[str, str] = {}
    for name, technique, options in variants(backbone.registry):
        try:
            found.append(_within(backbone, name, technique, options, limits))
        except (RefarchError, ValueError) as error:
            message = error.message if isinstance(error, RefarchError) else str(error)
            impossible[name] = " ".join(message.split())
    return found, impossible


def variants(registry: Registry) -> Iterator[tuple[str, TechniqueSpec, dict[str, Any]]]:
    """Names, techniques and options: each technique as it is, and each of its presets."""
    for name in registry.names("technique"):
        try:
            technique = registry.technique(name)
        except RefarchError:  # a broken plugin is refarch list-plugins' business
            continue
        yield name, technique, {}
        for preset in technique.presets:
            yield f"{name}:{preset}", technique, {"preset": preset}


def _within(
    backbone: Backbone, name: str, technique: TechniqueSpec, options: dict[str, Any], limits: Limits
) -> Candidate:
    """The technique with its default size, or halved until it keeps the budget."""
    candidate = backbone.candidate(name, technique.configure(options), options)
    size = next((option for option in technique.options if option.size), None)
    if limits.trainable is not None and candidate.trainable > limits.trainable and size is not None:
        value = int(candidate.spec.options[size.name])
        least = max(1, int(size.minimum or 1))
        while candidate.trainable > limits.trainable and value > least:
            value = max(least, value // 2)
            smaller = {**options, size.name: value}
            try:
                candidate = backbone.candidate(
                    name, technique.configure(smaller), smaller, f", with {size.name} {value} to keep the budget"
                )
            except (RefarchError, ValueError):  # this size does not suit the widths; a smaller one may
                continue
    return Candidate(**{**vars(candidate), "problems": tuple(_problems(candidate, limits))})


def _problems(candidate: Candidate, limits: Limits) -> Iterator[str]:
    if limits.trainable is not None and candidate.trainable > limits.trainable:
        yield f"trains {candidate.trainable:,} parameters at its smallest"
    if limits.no_inference_overhead and candidate.stays:
        yield f"does not merge: {candidate.stays[0]}"
    if limits.memory_bytes is not None and candidate.least_memory > limits.memory_bytes:
        yield f"needs at least {candidate.least_memory / 1e9:.3g} GB before activations"
