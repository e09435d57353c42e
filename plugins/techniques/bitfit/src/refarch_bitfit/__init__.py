"""The spec of bitfit (Ben Zaken et al. 2021, arXiv 2106.10199): a selection, with no function of its own."""

from refarch import ModuleSpec, TechniqueSpec, hookimpl

SPEC = TechniqueSpec(
    name="bitfit",
    summary="Train every bias and nothing else",
    reference="Ben Zaken et al. 2021, arXiv 2106.10199",
    modules=(
        ModuleSpec(
            name="selected",
            workspace=("model",),
            insertion="sequential",
            integration="selection",
            input_type="weights",
            adapted="selection",
            intra="none",
            inter="fixed",
            form="vector",
            parameters=("bias",),
        ),
    ),
    training={"learning_rate": 3e-3},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [SPEC]
