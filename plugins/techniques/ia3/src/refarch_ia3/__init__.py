"""The spec of (IA)3 (Liu et al. 2022, arXiv 2205.05638). See :mod:`refarch_ia3.function` for the formula."""

from refarch import ModuleSpec, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2205.05638")

IA3 = TechniqueSpec(
    name="ia3",
    summary="Learned factors on keys, values and the feed-forward's inner units",
    reference="Liu et al. 2022, arXiv 2205.05638",
    modules=(
        ModuleSpec(
            name="factors",
            workspace=(
                "attention.key",
                "attention.value",
                "cross_attention.key?",
                "cross_attention.value?",
                "ffn.hidden",
            ),
            insertion="sequential",
            integration="rescaling",
            input_type="hidden",
            adapted="reparameterisation",
            intra="diagonal",
            inter="fixed",
            form="vector",
            function="refarch_ia3.function:Factors",
            provenance={"workspace": PAPER, "integration": PAPER},
        ),
    ),
    training={"learning_rate": 1e-2},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [IA3]
