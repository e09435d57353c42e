"""Llama (Touvron et al. 2023, arXiv 2302.13971) and kin with the same layout: grouped heads, gated feed-forward."""

from refarch import FamilySpec, StackTable, TinyModel, hookimpl

LLAMA = FamilySpec(
    name="llama",
    summary="Llama: decoder, rotary positions, grouped heads, gated feed-forward",
    model_types=("llama",),
    stacks=(
        StackTable(
            name="decoder",
            layers="layers.{}",
            slots={
                "attention.query": "self_attn.q_proj",
                "attention.key": "self_attn.k_proj",
                "attention.value": "self_attn.v_proj",
                "attention.output": "self_attn.o_proj",
                "attention.key_value": "self_attn",
                "attention.norm": "input_layernorm",
                "ffn.up": "mlp.up_proj",
                "ffn.gate": "mlp.gate_proj",
                "ffn.down": "mlp.down_proj",
                "ffn.norm": "post_attention_layernorm",
            },
            final_norm="norm",
        ),
    ),
    embedding="embed_tokens",
    head="lm_head | score | qa_outputs",
    tiny=TinyModel(
        model_type="llama",
        config={
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
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
    return [LLAMA]
