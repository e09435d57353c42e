"""The spec of DoRA (Liu et al. 2024, arXiv 2402.09353). See :mod:`refarch_dora.function` for the formula."""

from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2402.09353")

DORA = TechniqueSpec(
    name="dora",
    summary="Magnitudes of a weight's rows, and a low-rank update of their directions",
    reference="Liu et al. 2024, arXiv 2402.09353",
    modules=(
        ModuleSpec(
            name="decomposed",
            workspace=("attention.query", "attention.value"),
            insertion="parallel",
            integration="transformation",
            input_type="weights",
            adapted="reparameterisation",
            intra="dense",
            inter="fixed",
            form="linear",
            function="refarch_dora.function:Decomposed",
            provenance={"integration": PAPER, "adapted": PAPER},
        ),
    ),
    options=(
        Option(
            name="rank", type="integer", default=8, minimum=1, size=True, help="r, the rank of the direction's update"
        ),
        Option(name="alpha", type="number", default=16.0, help="the direction's update is scaled by alpha / r"),
    ),
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [DORA]
