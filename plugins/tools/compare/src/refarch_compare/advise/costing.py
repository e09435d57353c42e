"""What a technique costs on a backbone: counted on the engine's own modules, built without weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from refarch import ConfiguredTechnique, Option, Registry
from refarch.architecture import BackboneChoice
from refarch.errors import RefarchError, UsageError, did_you_mean

TRAINED_COPIES = 4
"""What training keeps of each trained parameter with AdamW: itself, its gradient and two moments."""


class Cost(NamedTuple):
    """What one configured technique costs."""

    trainable: int
    """Parameters that train: the modules', and the head's where the task has a new one."""
    modules: int
    """The modules' own, with frozen factors."""
    least_memory: int
    """Bytes that training holds before any activation: the backbone, and what is trained."""
    stays: tuple[str, ...]
    """Why it does not merge into the base; empty if it does, exactly."""


class Backbone:
    """A backbone on the meta device: its modules and shapes, no weights.

    Args:
        name: a model plugin, a folder or a hub id that can be reached.
        task: whose head counts where it is new; a task that is not installed has none.
        registry: where names are looked up.

    Raises:
        UsageError: its configuration cannot be read.
    """

    def __init__(self, name: str, task: str, registry: Registry) -> None:
        import torch
        import transformers

        from refarch.pipeline.resolve import locate, quiet

        self.name, self.registry = name, registry
        source = locate(BackboneChoice(name=name), registry)
        with quiet(), torch.device("meta"):
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
            self.model = getattr(transformers, auto_class).from_config(config)
        self.total = sum(parameter.numel() for parameter in self.model.parameters())
        self.bytes = sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())

    def cost(self, technique: ConfiguredTechnique) -> Cost:
        """Attach a technique, count, and detach it.

        Raises:
            RefarchError: it cannot work on this backbone.
        """
        import torch

        import refarch

        with torch.device("meta"):
            adaptation = refarch.attach(
                self.model,
                technique,
                family=self.family,
                train_head=self.new_head and not technique.selects_head,
                registry=self.registry,
            )
        try:
            trained = [parameter for parameter in adaptation.parameters() if parameter.requires_grad]
            kept = sum(TRAINED_COPIES * parameter.numel() * parameter.element_size() for parameter in trained)
            return Cost(
                trainable=adaptation.count(),
                modules=adaptation.count(trainable=False),
                least_memory=self.bytes + kept,
                stays=tuple(adaptation.merge_reasons(in_memory=False)),
            )
        finally:
            adaptation.detach()


def largest(size: Option, below: int, trainable: Callable[[int], int], most: int) -> int | None:
    """The largest size below ``below`` at which a technique trains at most ``most`` parameters.

    Args:
        size: the option that is the technique's size.
        below: a size that is too large.
        trainable: what it trains at a size; an error of the platform's where the size does not suit the backbone.
        most: the budget.

    Returns:
        None where no size that was tried keeps it. Sizes are halved, and the last gap is halved in turn.
    """

    def keeps(value: int) -> bool:
        try:
            return trainable(value) <= most
        except RefarchError:
            return False

    least = max(1, int(size.minimum or 1))
    high = low = below
    while low > least:
        high, low = low, max(least, low // 2)
        if keeps(low):
            break
    else:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low
