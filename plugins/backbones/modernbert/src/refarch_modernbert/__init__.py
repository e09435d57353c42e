"""ModernBERT (Warner et al. 2024, arXiv 2412.13663): rotary positions, gated feed-forward, local and global attention.

``Wqkv`` is query, key, value. ``Wi`` is a gate, which the activation is applied to, and then what it multiplies; so the
names follow the other gated families', not the variables of transformers. The first layer has no attention norm: the
embedded input is normed already.
"""

from refarch import FamilySpec, StackTable, TinyModel, hookimpl

MODERNBERT = FamilySpec(
    name="modernbert",
    summary="ModernBERT: encoder, rotary positions, local and global attention, fused projections",
    model_types=("modernbert",),
    stacks=(
        StackTable(
            name="encoder",
            layers="layers.{}",
            slots={
                "attention.query": "attn.Wqkv[0/3]",
                "attention.key": "attn.Wqkv[1/3]",
                "attention.value": "attn.Wqkv[2/3]",
                "attention.output": "attn.Wo",
                "attention.key_value": "attn",
                "attention.norm": "attn_norm",
                "ffn.gate": "mlp.Wi[0/2]",
                "ffn.up": "mlp.Wi[1/2]",
                "ffn.down": "mlp.Wo",
                "ffn.norm": "mlp_norm",
            },
            final_norm="final_norm",
        ),
    ),
    embedding="embeddings.tok_embeddings",
    embedding_norm="embeddings.norm",
    head="head + classifier | head + decoder",
    tiny=TinyModel(
        model_type="modernbert",
        config={
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
            "local_attention": 4,
            "layer_types": ["full_attention", "sliding_attention"],
            "bos_token_id": 1,
            "cls_token_id": 1,
            "eos_token_id": 2,
            "sep_token_id": 2,
            "pad_token_id": 0,
        },
        auto_classes=("AutoModelForSequenceClassification", "AutoModelForMaskedLM"),
    ),
)


@hookimpl
def refarch_backbones() -> list[FamilySpec]:
    """The family of this plugin."""
    return [MODERNBERT]
