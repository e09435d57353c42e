"""Mixtral (Jiang et al. 2024, arXiv 2401.04088) and kin: decoders with a mixture of experts."""

from refarch import FamilySpec, StackTable, TinyModel, hookimpl

_EXPERTS = (
    "the feed-forward sublayer is a mixture of experts, whose weights are stacked in parameters of three dimensions"
    " (mlp.experts) and not in linear layers; 'ffn' is the sublayer as a whole"
)

MIXTRAL = FamilySpec(
    name="mixtral",
    summary="Mixtral: decoder, rotary positions, grouped heads, a mixture of experts",
    model_types=("mixtral", "qwen3_moe", "olmoe"),
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
                "attention.query_norm": "self_attn.q_norm?",
                "attention.key_norm": "self_attn.k_norm?",
                "attention.norm": "input_layernorm",
                "ffn": "mlp",
                "ffn.norm": "post_attention_layernorm",
            },
            unreachable={"ffn.up": _EXPERTS, "ffn.gate": _EXPERTS, "ffn.down": _EXPERTS},
            final_norm="norm",
        ),
    ),
    embedding="embed_tokens",
    head="lm_head | score | qa_outputs",
    tiny=TinyModel(
        model_type="mixtral",
        config={
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        auto_classes=("AutoModelForCausalLM",),
    ),
    kin={"qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8}, "olmoe": {"num_experts": 4}},
)


@hookimpl
def refarch_backbones() -> list[FamilySpec]:
    """The family of this plugin."""
    return [MIXTRAL]
