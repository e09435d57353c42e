"""DistilBERT (Sanh et al. 2019, arXiv 1910.01108): BERT's layers under other names, without token types and pooler."""

from refarch import FamilySpec, StackTable, TinyModel, hookimpl

DISTILBERT = FamilySpec(
    name="distilbert",
    summary="DistilBERT: encoder, learned positions, norm after each sublayer",
    model_types=("distilbert",),
    stacks=(
        StackTable(
            name="encoder",
            layers="transformer.layer.{}",
            slots={
                "attention.query": "attention.q_lin",
                "attention.key": "attention.k_lin",
                "attention.value": "attention.v_lin",
                "attention.output": "attention.out_lin",
                "attention.key_value": "attention",
                "attention.norm": "sa_layer_norm",
                "ffn.up": "ffn.lin1",
                "ffn.down": "ffn.lin2",
                "ffn.norm": "output_layer_norm",
            },
        ),
    ),
    embedding="embeddings.word_embeddings",
    embedding_norm="embeddings.LayerNorm",
    head="pre_classifier + classifier | classifier | vocab_transform + vocab_layer_norm + vocab_projector | qa_outputs",
    tiny=TinyModel(
        model_type="distilbert",
        config={
            "vocab_size": 99,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 48,
            "max_position_embeddings": 64,
        },
        auto_classes=("AutoModelForSequenceClassification", "AutoModelForMaskedLM"),
    ),
)


@hookimpl
def refarch_backbones() -> list[FamilySpec]:
    """The family of this plugin."""
    return [DISTILBERT]
