"""The spec of FourierFT (Gao et al. 2024, arXiv 2405.03003). See :mod:`refarch_fourierft.function` for the formula."""

from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2405.03003")

FOURIERFT = TechniqueSpec(
    name="fourierft",
    summary="An update from a few of its Fourier coefficients",
    reference="Gao et al. 2024, arXiv 2405.03003",
    modules=(
        ModuleSpec(
            name="spectral",
            workspace=("attention.query", "attention.value"),
            insertion="parallel",
            integration="scaled addition",
            input_type="hidden",
            adapted="reparameterisation",
            intra="structured",
            inter="fixed",
            form="linear",
            function="refarch_fourierft.function:Spectral",
            sharing="across layers",
            shared=("entries",),
            frozen=("entries",),
            identity_at_start=False,
            provenance={"integration": PAPER, "adapted": PAPER, "sharing": PAPER, "identity_at_start": PAPER},
        ),
    ),
    options=(
        Option(
            name="coefficients", type="integer", default=1000, minimum=1, size=True, help="n, trained in each matrix"
        ),
        Option(name="alpha", type="number", default=300.0, help="the update is scaled by alpha"),
        Option(
            name="entry_seed",
            type="integer",
            default=2024,
            minimum=0,
            help="what decides which entries have a coefficient, as in the authors' code; the same in every run",
        ),
    ),
    training={"learning_rate": 5e-2},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [FOURIERFT]
