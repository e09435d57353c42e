"""The spec of orthogonal butterflies (Liu et al. 2023, arXiv 2311.06243). See :mod:`refarch_boft.function`."""

from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2311.06243")

BOFT = TechniqueSpec(
    name="boft",
    summary="Butterfly products of sparse rotations of weight matrices",
    reference="Liu et al. 2023, arXiv 2311.06243",
    modules=(
        ModuleSpec(
            name="butterfly",
            workspace=("attention.query", "attention.key", "attention.value", "attention.output"),
            insertion="parallel",
            integration="transformation",
            input_type="weights",
            adapted="reparameterisation",
            intra="structured",
            inter="fixed",
            form="linear",
            function="refarch_boft.function:BOFT",
            provenance={"integration": PAPER, "adapted": PAPER, "intra": PAPER},
        ),
    ),
    options=(
        Option(name="block_size", type="integer", default=4, minimum=2, help="b, of each factor's blocks"),
        Option(name="factors", type="integer", default=2, minimum=1, size=True, help="m, the number of factors"),
        Option(name="scale_outputs", type="boolean", default=True, help="learn a factor for each output unit too"),
    ),
    training={"learning_rate": 3e-3},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [BOFT]
