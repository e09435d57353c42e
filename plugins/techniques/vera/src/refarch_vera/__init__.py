"""The spec of VeRA (Kopiczko et al. 2023, arXiv 2310.11454). See :mod:`refarch_vera.function` for the formula."""

from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2310.11454")

VERA = TechniqueSpec(
    name="vera",
    summary="Trained vectors around one frozen random pair of matrices",
    reference="Kopiczko et al. 2023, arXiv 2310.11454",
    modules=(
        ModuleSpec(
            name="vectors",
            workspace=("attention.query", "attention.value"),
            insertion="parallel",
            integration="direct addition",
            input_type="hidden",
            adapted="reparameterisation",
            intra="diagonal",
            inter="fixed",
            form="linear",
            function="refarch_vera.function:VeRA",
            sharing="across model",
            shared=("down", "up"),
            frozen=("down", "up"),
            provenance=dict.fromkeys(("workspace", "integration", "adapted", "sharing", "frozen"), PAPER),
        ),
    ),
    options=(
        Option(name="rank", type="integer", default=256, minimum=1, size=True, help="r, the inner width"),
        Option(name="dropout", type="number", default=0.0, minimum=0, maximum=0.99, help="on the module's input"),
        Option(name="d_initial", type="number", default=0.1, help="initial value of the inner vector d"),
    ),
    training={"learning_rate": 1e-2},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [VERA]
