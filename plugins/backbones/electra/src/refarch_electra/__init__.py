"""ELECTRA (Clark et al. 2020, arXiv 2003.10555): BERT's layers; the embeddings may be narrower than the layers.

Then ``embeddings_project`` stands between them, and tokens at the inputs have the width of the embeddings.
"""

from refarch import FamilySpec, StackTable, TinyModel, hookimpl

ELECTRA = FamilySpec(
    name="electra",
    summary="ELECTRA: encoder, learned positions, embeddings of their own width",
    model_types=("electra",),
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
        ),
    ),
    embedding="embeddings.word_embeddings",
    embedding_norm="embeddings.LayerNorm",
    head="sequence_summary + classifier | classifier | generator_predictions + generator_lm_head"
    " | discriminator_predictions | qa_outputs",
    tiny=TinyModel(
        model_type="electra",
        config={
            "vocab_size": 99,
            "embedding_size": 24,
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
    return [ELECTRA]
