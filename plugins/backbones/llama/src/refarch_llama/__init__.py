"""Llama (Touvron et al. 2023, arXiv 2302.13971) and kin with the same layout: grouped heads, gated feed-forward.

Two families differ in their norms alone: Gemma 2 and 3 have one before and one after each sublayer, OLMo 2 and 3 only
those after.
"""

from typing import Any

from refarch import FamilySpec, StackTable, TinyModel, hookimpl

_SLOTS = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention.key_value": "self_attn",
    "attention.query_norm": "self_attn.q_norm?",
    "attention.key_norm": "self_attn.k_norm?",
    "ffn.up": "mlp.up_proj",
    "ffn.gate": "mlp.gate_proj",
    "ffn.down": "mlp.down_proj",
}
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


def _stack(**norms: str) -> StackTable:
    slots = {**_SLOTS, **{f"{name.replace('__', '.')}": path for name, path in norms.items()}}
    return StackTable(name="decoder", layers="layers.{}", slots=slots, final_norm="norm")


LLAMA = FamilySpec(
    name="llama",
    summary="Llama: decoder, rotary positions, grouped heads, gated feed-forward",
    model_types=(
        "llama",
        "mistral",
        "ministral",
        "qwen2",
        "qwen3",
        "gemma",
        "granite",
        "helium",
        "seed_oss",
        "smollm3",
        "stablelm",
    ),
    stacks=(_stack(attention__norm="input_layernorm", ffn__norm="post_attention_layernorm"),),
    embedding="embed_tokens",
    head="lm_head | score | qa_outputs",
    tiny=TinyModel(
        model_type="llama",
        config=_TINY,
        auto_classes=("AutoModelForCausalLM", "AutoModelForSequenceClassification"),
    ),
    kin={
        "mistral": {},
        "ministral": {"head_dim": 8},
        "qwen2": {},
        "qwen3": {"head_dim": 8},
        "gemma": {"head_dim": 8},
        "granite": {},
        "helium": {"head_dim": 8},
        "seed_oss": {"head_dim": 8},
        "smollm3": {},
        "stablelm": {},
    },
)
GEMMA2 = FamilySpec(
    name="gemma2",
    summary="Gemma 2 and 3 (text): like Llama, with a norm before and one after each sublayer",
    model_types=("gemma2", "gemma3_text"),
    stacks=(
        _stack(
            attention__norm="input_layernorm",
            attention__post_norm="post_attention_layernorm",
            ffn__norm="pre_feedforward_layernorm",
            ffn__post_norm="post_feedforward_layernorm",
        ),
    ),
    embedding="embed_tokens",
    head="lm_head | score | qa_outputs",
    tiny=TinyModel(model_type="gemma2", config={**_TINY, "head_dim": 8}, auto_classes=("AutoModelForCausalLM",)),
    kin={"gemma3_text": {}},
)
OLMO2 = FamilySpec(
    name="olmo2",
    summary="OLMo 2 and 3: like Llama, with a norm after each sublayer instead of before it",
    model_types=("olmo2", "olmo3"),
    stacks=(_stack(attention__norm="post_attention_layernorm", ffn__norm="post_feedforward_layernorm"),),
    embedding="embed_tokens",
    head="lm_head | score | qa_outputs",
    tiny=TinyModel(model_type="olmo2", config=_TINY, auto_classes=("AutoModelForCausalLM",)),
    kin={"olmo3": {}},
)


@hookimpl
def refarch_backbones() -> list[FamilySpec]:
    """The families of this plugin."""
    return [LLAMA, GEMMA2, OLMO2]
