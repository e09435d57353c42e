"""RoBERTa (Liu et al. 2019, arXiv 1907.11692), and what has its layers: XLM-RoBERTa, CamemBERT.

Positions are counted over the tokens that are no padding, from ``pad_token_id + 1`` on.
"""

from refarch import FamilySpec, StackTable, TinyModel, hookimpl

ROBERTA = FamilySpec(
    name="roberta",
    summary="RoBERTa, XLM-RoBERTa, CamemBERT: encoder, positions counted after padding",
    model_types=("roberta", "xlm-roberta", "camembert"),
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
            positions="after padding",
        ),
    ),
    embedding="embeddings.word_embeddings",
    embedding_norm="embeddings.LayerNorm",
    head="classifier | lm_head | qa_outputs",
    tiny=TinyModel(
        model_type="roberta",
        config={
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
            "type_vocab_size": 1,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        auto_classes=("AutoModelForSequenceClassification", "AutoModelForMaskedLM"),
    ),
    kin={"xlm-roberta": {}, "camembert": {}},
)


@hookimpl
def refarch_backbones() -> list[FamilySpec]:
    """The family of this plugin."""
    return [ROBERTA]
