"""Baselines: full finetuning trains a copy of everything; head-only trains nothing but the task head."""

from refarch import ModuleSpec, TechniqueSpec, hookimpl


def _selection(name: str, slot: str) -> ModuleSpec:
    return ModuleSpec(
        name=name,
        workspace=(slot,),
        insertion="sequential",
        integration="selection",
        input_type="weights",
        adapted="selection",
        intra="none",
        inter="fixed",
        form="linear",
        parameters=("*",),
    )


FULL = TechniqueSpec(
    name="full",
    summary="Full finetuning: a trainable copy of every parameter",
    modules=(_selection("everything", "model"),),
    training={"learning_rate": 1e-4},
)
HEAD_ONLY = TechniqueSpec(
    name="head-only",
    summary="Train the task head alone; the backbone stays frozen",
    modules=(_selection("head", "head"),),
    training={"learning_rate": 1e-2},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The techniques of this plugin."""
    return [FULL, HEAD_ONLY]
