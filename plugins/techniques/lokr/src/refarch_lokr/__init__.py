"""The spec of LoKr (Yeh et al. 2023, arXiv 2309.14859). See :mod:`refarch_lokr.function` for the formula."""

from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2309.14859")

LOKR = TechniqueSpec(
    name="lokr",
    summary="The Kronecker product of a small matrix and a low-rank one as update",
    reference="Yeh et al. 2023, arXiv 2309.14859; Edalati et al. 2022, arXiv 2212.10650",
    modules=(
        ModuleSpec(
            name="kronecker",
            workspace=("attention.query", "attention.value"),
            insertion="parallel",
            integration="scaled addition",
            input_type="hidden",
            adapted="reparameterisation",
            intra="structured",
            inter="fixed",
            form="linear",
            function="refarch_lokr.function:Kronecker",
            provenance={"integration": PAPER, "adapted": PAPER, "intra": PAPER},
        ),
    ),
    options=(
        Option(name="rank", type="integer", default=8, minimum=1, size=True, help="r, of a factor that is decomposed"),
        Option(name="alpha", type="number", default=8.0, help="the update is scaled by alpha / r"),
        Option(
            name="factor",
            type="integer",
            minimum=1,
            help="height and width of the first factor, where they divide the matrix's; near its root when not set",
        ),
        Option(
            name="decompose_both", type="boolean", default=False, help="the first factor by rank r too, if it is large"
        ),
    ),
    training={"learning_rate": 1e-2},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [LOKR]
