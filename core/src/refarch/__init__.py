"""refarch: the reference architecture of parameter-efficient finetuning, as running software.

Everything public is here. Names are imported when they are first used, so ``import refarch`` itself is light and a
plugin that only declares specs never imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refarch import _moved
from refarch._lazy import lazy, names

if TYPE_CHECKING:
    from refarch.architecture import (
        SOURCE_OPTIONS as SOURCE_OPTIONS,
        SPLIT_OPTIONS as SPLIT_OPTIONS,
        TEXT_FORMULATIONS as TEXT_FORMULATIONS,
        ConfiguredTechnique as ConfiguredTechnique,
        FamilySpec as FamilySpec,
        Formulation as Formulation,
        Gate as Gate,
        InterchangeSpec as InterchangeSpec,
        Layers as Layers,
        ModelSpec as ModelSpec,
        ModuleSpec as ModuleSpec,
        Option as Option,
        PipelineSpec as PipelineSpec,
        Positions as Positions,
        Provenance as Provenance,
        Router as Router,
        RunRecord as RunRecord,
        StackTable as StackTable,
        TaskSpec as TaskSpec,
        TechniqueSpec as TechniqueSpec,
        TensorRule as TensorRule,
        TinyModel as TinyModel,
        TrainingSpec as TrainingSpec,
    )
    from refarch.composition import (
        Composition as Composition,
        Judgement as Judgement,
        combine as combine,
        compose as compose,
        compositions as compositions,
        export as export,
        judge as judge,
        load_composition as load_composition,
        to_low_rank as to_low_rank,
    )
    from refarch.engine import (
        Adaptation as Adaptation,
        Attend as Attend,
        BlockRotation as BlockRotation,
        Function as Function,
        LowRank as LowRank,
        Schedule as Schedule,
        SlotShape as SlotShape,
        adaptations as adaptations,
        attach as attach,
        load as load,
    )
    from refarch.errors import RefarchError as RefarchError
    from refarch.pipeline import Pool as Pool, RunFolder as RunFolder, run as run
    from refarch.plugins import (
        CommandSpec as CommandSpec,
        Registry as Registry,
        default_registry as default_registry,
        hookimpl as hookimpl,
    )
    from refarch.tasks import Data as Data, Task as Task

_FROM = {
    "refarch.architecture": (
        "SOURCE_OPTIONS SPLIT_OPTIONS TEXT_FORMULATIONS ConfiguredTechnique FamilySpec "
        "Formulation Gate InterchangeSpec Layers ModelSpec ModuleSpec Option PipelineSpec "
        "Positions Provenance Router RunRecord StackTable TaskSpec TechniqueSpec TensorRule "
        "TinyModel TrainingSpec"
    ),
    "refarch.engine": ("Adaptation Attend BlockRotation Function LowRank Schedule SlotShape adaptations attach load"),
    "refarch.composition": (
        "Composition Judgement combine compose compositions export judge load_composition to_low_rank"
    ),
    "refarch.errors": "RefarchError",
    "refarch.pipeline": "Pool RunFolder run",
    "refarch.plugins": "CommandSpec Registry default_registry hookimpl",
    "refarch.tasks": "Data Task",
}
__all__ = names(_FROM)  # pyright: ignore[reportUnsupportedDunderAll]

__version__ = "0.1.0"
_moved.install()


if not TYPE_CHECKING:  # a type checker would take any name from a module with __getattr__

    def __getattr__(name: str) -> Any:
        return lazy(__name__, name, _FROM)
