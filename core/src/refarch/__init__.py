"""refarch: the reference architecture of parameter-efficient finetuning, as running software.

Everything public is here. Names are imported when they are first used, so ``import refarch`` itself is light and a
plugin that only declares specs never imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refarch._lazy import lazy

if TYPE_CHECKING:
    from refarch.architecture import (
        SOURCE_OPTIONS,
        SPLIT_OPTIONS,
        TEXT_FORMULATIONS,
        ConfiguredTechnique,
        FamilySpec,
        Formulation,
        Gate,
        InterchangeSpec,
        Layers,
        ModelSpec,
        ModuleSpec,
        Option,
        PipelineSpec,
        Positions,
        Provenance,
        Router,
        RunRecord,
        StackTable,
        TaskSpec,
        TechniqueSpec,
        TensorRule,
        TinyModel,
        TrainingSpec,
    )
    from refarch.composition import (
        Composition,
        Judgement,
        combine,
        compose,
        compositions,
        export,
        judge,
        load_composition,
        to_low_rank,
    )
    from refarch.engine import (
        Adaptation,
        Attend,
        BlockRotation,
        Function,
        LowRank,
        Schedule,
        SlotShape,
        adaptations,
        attach,
        load,
    )
    from refarch.errors import RefarchError
    from refarch.pipeline import Pool, RunFolder, run
    from refarch.plugins import CommandSpec, Registry, default_registry, hookimpl
    from refarch.tasks import Data, Task

__version__ = "0.1.0"

_ARCHITECTURE = (
    "SOURCE_OPTIONS",
    "SPLIT_OPTIONS",
    "TEXT_FORMULATIONS",
    "ConfiguredTechnique",
    "FamilySpec",
    "Formulation",
    "Gate",
    "InterchangeSpec",
    "Layers",
    "ModelSpec",
    "ModuleSpec",
    "Option",
    "PipelineSpec",
    "Positions",
    "Provenance",
    "Router",
    "RunRecord",
    "StackTable",
    "TaskSpec",
    "TechniqueSpec",
    "TensorRule",
    "TinyModel",
    "TrainingSpec",
)
_ENGINE = (
    "Adaptation",
    "Attend",
    "BlockRotation",
    "Function",
    "LowRank",
    "Schedule",
    "SlotShape",
    "adaptations",
    "attach",
    "load",
)
_COMPOSE = (
    "Composition",
    "Judgement",
    "combine",
    "compose",
    "compositions",
    "export",
    "judge",
    "load_composition",
    "to_low_rank",
)
_NAMES = {
    **dict.fromkeys(_ARCHITECTURE, "refarch.architecture"),
    **dict.fromkeys(_ENGINE, "refarch.engine"),
    **dict.fromkeys(_COMPOSE, "refarch.composition"),
    **dict.fromkeys(("Data", "Task"), "refarch.tasks"),
    **dict.fromkeys(("Pool", "RunFolder", "run"), "refarch.pipeline"),
    **dict.fromkeys(("CommandSpec", "Registry", "default_registry", "hookimpl"), "refarch.plugins"),
    "RefarchError": "refarch.errors",
}

__all__ = [
    "SOURCE_OPTIONS",
    "SPLIT_OPTIONS",
    "TEXT_FORMULATIONS",
    "Adaptation",
    "Attend",
    "BlockRotation",
    "CommandSpec",
    "Composition",
    "ConfiguredTechnique",
    "Data",
    "FamilySpec",
    "Formulation",
    "Function",
    "Gate",
    "InterchangeSpec",
    "Judgement",
    "Layers",
    "LowRank",
    "ModelSpec",
    "ModuleSpec",
    "Option",
    "PipelineSpec",
    "Pool",
    "Positions",
    "Provenance",
    "RefarchError",
    "Registry",
    "Router",
    "RunFolder",
    "RunRecord",
    "Schedule",
    "SlotShape",
    "StackTable",
    "Task",
    "TaskSpec",
    "TechniqueSpec",
    "TensorRule",
    "TinyModel",
    "TrainingSpec",
    "__version__",
    "adaptations",
    "attach",
    "combine",
    "compose",
    "compositions",
    "default_registry",
    "export",
    "hookimpl",
    "judge",
    "load",
    "load_composition",
    "run",
    "to_low_rank",
]


def __getattr__(name: str) -> Any:
    return lazy(__name__, name, _NAMES)
