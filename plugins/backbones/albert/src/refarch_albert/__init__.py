"""ALBERT (Lan et al. 2019, arXiv 1909.11942): few layers, each of which runs at many depths.

The layers of the table are those that exist, not the depths: in the published models one layer runs at all 12 or 24.
What joins it acts at every depth that it serves, and is counted and merged once. Tokens at the inputs have the
embeddings' width.
"""

from refarch import FamilySpec, StackTable, TinyModel, hookimpl

ALBERT = FamilySpec(
    name="albert",
    summary="ALBERT: encoder, layers shared across depth, narrow embeddings",
    model_types=("albert",),
    stacks=(
        StackTable(
            name="encoder",
            layers="encoder.albert_layer_groups.{}.albert_layers.{}",
            slots={
                "attention.query": "attention.query",
                "attention.key": "attention.key",
                "attention.value": "attention.value",
                "attention.output": "attention.dense",
                "attention.key_value": "attention",
                "attention.norm": "attention.LayerNorm",
                "ffn.up": "ffn",
                "ffn.down": "ffn_output",
                "ffn.norm": "full_layer_layer_norm",
            },
            body="encoder",
        ),
    ),
    embedding="embeddings.word_embeddings",
    embedding_norm="embeddings.LayerNorm",
    head="predictions + sop_classifier | predictions | classifier | qa_outputs",
    tiny=TinyModel(
        model_type="albert",
        config={
            "vocab_size": 99,
            "embedding_size": 24,
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_hidden_groups": 2,
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
    return [ALBERT]
