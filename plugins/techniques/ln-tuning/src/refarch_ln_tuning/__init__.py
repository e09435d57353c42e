"""The spec of ln-tuning (Zhao et al. 2023, arXiv 2312.11420): a selection, with no function of its own."""

from refarch import ModuleSpec, TechniqueSpec, hookimpl

SPEC = TechniqueSpec(
    name="ln-tuning",
    summary="Train the parameters of every norm",
    reference="Zhao et al. 2023, arXiv 2312.11420",
    modules=(
        ModuleSpec(
            name="selected",
            workspace=(
                "embedding_norm?",
                "attention.query_norm?",
                "attention.key_norm?",
                "attention.norm?",
                "attention.post_norm?",
                "cross_attention.query_norm?",
                "cross_attention.key_norm?",
                "cross_attention.norm?",
                "cross_attention.post_norm?",
                "ffn.norm?",
                "ffn.post_norm?",
                "final_norm?",
            ),
            insertion="sequential",
            integration="selection",
            input_type="weights",
            adapted="selection",
            intra="diagonal",
            inter="fixed",
            form="vector",
            parameters=("*",),
        ),
    ),
    training={"learning_rate": 3e-3},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [SPEC]
