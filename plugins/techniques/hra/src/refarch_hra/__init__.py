"""The spec of Householder reflection adaptation (Yuan et al. 2024, arXiv 2405.17484); :mod:`refarch_hra.function`."""

from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2405.17484")

HRA = TechniqueSpec(
    name="hra",
    summary="Weight matrices times a chain of learned reflections",
    reference="Yuan et al. 2024, arXiv 2405.17484",
    modules=(
        ModuleSpec(
            name="reflections",
            workspace=("attention.query", "attention.key", "attention.value", "attention.output"),
            insertion="parallel",
            integration="transformation",
            input_type="weights",
            adapted="reparameterisation",
            intra="dense",
            inter="fixed",
            form="linear",
            function="refarch_hra.function:HRA",
            provenance={"integration": PAPER, "adapted": PAPER},
        ),
    ),
    options=(
        Option(name="rank", type="integer", default=8, minimum=2, size=True, help="r, the number of reflections; even"),
    ),
    training={"learning_rate": 1e-2},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [HRA]
