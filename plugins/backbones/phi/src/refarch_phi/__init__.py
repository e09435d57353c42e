"""Phi (Gunasekar et al. 2023, arXiv 2306.11644) and Phi-3 (Abdin et al. 2024, arXiv 2404.14219)."""

from typing import Any

from refarch import FamilySpec, StackTable, TinyModel, hookimpl

_TINY: dict[str, Any] = {
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
}
_QKV = "num_attention_heads:num_key_value_heads:num_key_value_heads"

PHI = FamilySpec(
    name="phi",
    summary="Phi: decoder, rotary positions, attention and feed-forward in parallel after one norm",
    model_types=("phi",),
    stacks=(
        StackTable(
            name="decoder",
            layers="layers.{}",
            slots={
                "attention.query": "self_attn.q_proj",
                "attention.key": "self_attn.k_proj",
                "attention.value": "self_attn.v_proj",
                "attention.output": "self_attn.dense",
                "attention.key_value": "self_attn",
                "attention.norm": "input_layernorm",  # both sublayers read it; there is no ffn.norm
                "ffn.up": "mlp.fc1",
                "ffn.down": "mlp.fc2",
            },
            final_norm="final_layernorm",
        ),
    ),
    embedding="embed_tokens",
    head="lm_head | score | qa_outputs",
    tiny=TinyModel(model_type="phi", config=_TINY, auto_classes=("AutoModelForCausalLM",)),
)
PHI3 = FamilySpec(
    name="phi3",
    summary="Phi-3 and 4: decoder, rotary positions, grouped heads, fused projections, gated feed-forward",
    model_types=("phi3",),
    stacks=(
        StackTable(
            name="decoder",
            layers="layers.{}",
            slots={
                "attention.query": f"self_attn.qkv_proj[0/{_QKV}]",
                "attention.key": f"self_attn.qkv_proj[1/{_QKV}]",
                "attention.value": f"self_attn.qkv_proj[2/{_QKV}]",
                "attention.output": "self_attn.o_proj",
                "attention.key_value": "self_attn",
                "attention.norm": "input_layernorm",
                "ffn.gate": "mlp.gate_up_proj[0/2]",
                "ffn.up": "mlp.gate_up_proj[1/2]",
                "ffn.down": "mlp.down_proj",
                "ffn.norm": "post_attention_layernorm",
            },
            final_norm="norm",
        ),
    ),
    embedding="embed_tokens",
    head="lm_head | score | qa_outputs",
    tiny=TinyModel(model_type="phi3", config=_TINY, auto_classes=("AutoModelForCausalLM",)),
)


@hookimpl
def refarch_backbones() -> list[FamilySpec]:
    """The families of this plugin."""
    return [PHI, PHI3]
