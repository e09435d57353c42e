"""The spec of LoHa (Hyeon-Woo et al. 2021, arXiv 2108.06098). See :mod:`refarch_loha.function` for the formula."""

from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2309.14859")

LOHA = TechniqueSpec(
    name="loha",
    summary="The elementwise product of two low-rank updates",
    reference="Hyeon-Woo et al. 2021, arXiv 2108.06098; Yeh et al. 2023, arXiv 2309.14859",
    modules=(
        ModuleSpec(
            name="hadamard",
            workspace=("attention.query", "attention.value"),
            insertion="parallel",
            integration="scaled addition",
            input_type="hidden",
            adapted="reparameterisation",
            intra="dense",
            inter="fixed",
            form="linear",
            function="refarch_loha.function:Hadamard",
            provenance={"integration": PAPER, "adapted": PAPER},
        ),
    ),
    options=(
        Option(name="rank", type="integer", default=8, minimum=1, size=True, help="r, of each of the two factors"),
        Option(name="alpha", type="number", default=8.0, help="the update is scaled by alpha / r"),
    ),
    training={"learning_rate": 3e-3},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [LOHA]
