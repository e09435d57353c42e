"""What a technique costs on a backbone: counted on the engine's own modules, built without weights."""

from __future__ import annotations

from typing import NamedTuple

from refarch_inspect.names import meant

from refarch import ConfiguredTechnique, Registry
from refarch_compare.attached import attached

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
        meant(name, registry)
        from refarch_inspect.source import find_config  # loads torch

        from refarch_compare.cost.backbone import find

        self.name, self.registry = name, registry
        auto_class, self.new_head = "AutoModel", False
        if task in registry.names("task"):
            kind = registry.family_for(find_config(name, None, registry).model_type).kind
            way = registry.task(task).formulation(kind)
            auto_class, self.new_head = way.auto_class, way.new_head
        self.model = find(name, registry, "float32", auto_class).model
        self.total = sum(parameter.numel() for parameter in self.model.parameters())
        self.bytes = sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())

    def cost(self, technique: ConfiguredTechnique) -> Cost:
        """Attach a technique, count, and detach it.

        Raises:
            RefarchError: it cannot work on this backbone.
        """
        head = self.new_head and not technique.selects_head
        with attached(self.model, technique, train_head=head, registry=self.registry) as adaptation:
            trained = [parameter for parameter in adaptation.parameters() if parameter.requires_grad]
            kept = sum(TRAINED_COPIES * parameter.numel() * parameter.element_size() for parameter in trained)
            return Cost(
                trainable=adaptation.count(),
                modules=adaptation.count(trainable=False),
                least_memory=self.bytes + kept,
                stays=tuple(adaptation.merge_reasons(in_memory=False)),
            )
