"""GPT-NeoX (Black et al. 2022, arXiv 2204.06745), Pythia too. In the fused projection each head has its query, key and
value side by side; attention and feed-forward stand in parallel, each with a norm of its own.
"""

from refarch import FamilySpec, StackTable, TinyModel, hookimpl

GPT_NEOX = FamilySpec(
    name="gpt-neox",
    summary="GPT-NeoX: decoder, rotary positions, projections fused by head, parallel sublayers",
    model_types=("gpt_neox",),
    stacks=(
        StackTable(
            name="decoder",
            layers="layers.{}",
            slots={
                "attention.query": "attention.query_key_value[0/3 per num_attention_heads]",
                "attention.key": "attention.query_key_value[1/3 per num_attention_heads]",
                "attention.value": "attention.query_key_value[2/3 per num_attention_heads]",
                "attention.output": "attention.dense",
                "attention.key_value": "attention",
                "attention.norm": "input_layernorm",
                "ffn.up": "mlp.dense_h_to_4h",
                "ffn.down": "mlp.dense_4h_to_h",
                "ffn.norm": "post_attention_layernorm",
            },
            final_norm="final_layer_norm",
        ),
    ),
    embedding="embed_in",
    head="embed_out | lm_head | score | classifier | qa_outputs",
    tiny=TinyModel(
        model_type="gpt_neox",
        config={
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        auto_classes=("AutoModelForCausalLM", "AutoModelForSequenceClassification"),
    ),
)


@hookimpl
def refarch_backbones() -> list[FamilySpec]:
    """The family of this plugin."""
    return [GPT_NEOX]
