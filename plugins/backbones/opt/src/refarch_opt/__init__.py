"""OPT (Zhang et al. 2022, arXiv 2205.01068): learned positions; embeddings may be narrower than layers."""

from refarch import FamilySpec, StackTable, TinyModel, hookimpl

OPT = FamilySpec(
    name="opt",
    summary="OPT: decoder, learned positions, norm before each sublayer (after it in the 350M model)",
    model_types=("opt",),
    stacks=(
        StackTable(
            name="decoder",
            module="decoder",
            layers="decoder.layers.{}",
            slots={
                "attention.query": "self_attn.q_proj",
                "attention.key": "self_attn.k_proj",
                "attention.value": "self_attn.v_proj",
                "attention.output": "self_attn.out_proj",
                "attention.key_value": "self_attn",
                "attention.norm": "self_attn_layer_norm",
                "ffn.up": "fc1",
                "ffn.down": "fc2",
                "ffn.norm": "final_layer_norm",
            },
            final_norm="decoder.final_layer_norm?",
        ),
    ),
    embedding="decoder.embed_tokens",
    head="lm_head | score | qa_outputs",
    tiny=TinyModel(
        model_type="opt",
        config={
            "vocab_size": 99,
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 48,
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
    return [OPT]
