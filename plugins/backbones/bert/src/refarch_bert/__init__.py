"""BERT (Devlin et al. 2018, arXiv 1810.04805)."""

from refarch import FamilySpec, StackTable, TinyModel, hookimpl

BERT = FamilySpec(
    name="bert",
    summary="BERT: encoder, learned positions, norm after each sublayer",
    model_types=("bert",),
    stacks=(
        StackTable(
            name="encoder",
            layers="encoder.layer.{}",
            slots={
                "attention.query": "attention.self.query",
                "attention.key": "attention.self.key",
                "attention.value": "attention.self.value",
                "attention.output": "attention.output.dense",
                "attention.key_value": "attention.self",
                "attention.norm": "attention.output.LayerNorm",
                "cross_attention.query": "crossattention.self.query?",
                "cross_attention.key": "crossattention.self.key?",
                "cross_attention.value": "crossattention.self.value?",
                "cross_attention.output": "crossattention.output.dense?",
                "cross_attention.key_value": "crossattention.self?",
                "cross_attention.norm": "crossattention.output.LayerNorm?",
                "ffn.up": "intermediate.dense",
                "ffn.down": "output.dense",
                "ffn.norm": "output.LayerNorm",
            },
            body="encoder",
        ),
    ),
    embedding="embeddings.word_embeddings",
    embedding_norm="embeddings.LayerNorm",
    head="classifier | qa_outputs | cls",
    tiny=TinyModel(
        model_type="bert",
        config={
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
        },
        auto_classes=("AutoModelForSequenceClassification", "AutoModelForMaskedLM"),
    ),
)


@hookimpl
def refarch_backbones() -> list[FamilySpec]:
    """The family of this plugin."""
    return [BERT]
