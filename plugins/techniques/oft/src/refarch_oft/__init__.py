"""The spec of orthogonal finetuning (Qiu et al. 2023, arXiv 2306.07280). See :mod:`refarch_oft.function`."""

from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2306.07280")

OFT = TechniqueSpec(
    name="oft",
    summary="Block-diagonal rotations of weight matrices",
    reference="Qiu et al. 2023, arXiv 2306.07280",
    modules=(
        ModuleSpec(
            name="rotation",
            workspace=("attention.query", "attention.key", "attention.value", "attention.output"),
            insertion="parallel",
            integration="transformation",
            input_type="weights",
            adapted="reparameterisation",
            intra="structured",
            inter="fixed",
            form="linear",
            function="refarch_oft.function:OFT",
            provenance={"integration": PAPER, "adapted": PAPER, "intra": PAPER},
        ),
    ),
    options=(
        Option(name="block_size", type="integer", default=8, minimum=2, size=True, help="b; divides the input's width"),
        Option(name="share_blocks", type="boolean", default=False, help="one block for all, so fewer parameters"),
    ),
    training={"learning_rate": 3e-3},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [OFT]
