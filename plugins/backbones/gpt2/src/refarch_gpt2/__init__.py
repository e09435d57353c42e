"""GPT-2 (Radford et al. 2019). Query, key and value are one fused Conv1D, whose weight is stored transposed."""

from refarch import FamilySpec, StackTable, TinyModel, hookimpl

GPT2 = FamilySpec(
    name="gpt2",
    summary="GPT-2: decoder, learned positions, fused attention projections",
    model_types=("gpt2",),
    stacks=(
        StackTable(
            name="decoder",
            layers="h.{}",
            slots={
                "attention.query": "attn.c_attn[0/3]",
                "attention.key": "attn.c_attn[1/3]",
                "attention.value": "attn.c_attn[2/3]",
                "attention.output": "attn.c_proj",
                "attention.key_value": "attn",
                "attention.norm": "ln_1",
                "cross_attention.query": "crossattention.q_attn?",
                "cross_attention.key": "crossattention.c_attn[0/2]?",
                "cross_attention.value": "crossattention.c_attn[1/2]?",
                "cross_attention.output": "crossattention.c_proj?",
                "cross_attention.key_value": "crossattention?",
                "cross_attention.norm": "ln_cross_attn?",
                "ffn.up": "mlp.c_fc",
                "ffn.down": "mlp.c_proj",
                "ffn.norm": "ln_2",
            },
            final_norm="ln_f",
        ),
    ),
    embedding="wte",
    head="lm_head | score | classifier | qa_outputs",
    tiny=TinyModel(
        model_type="gpt2",
        config={
            "vocab_size": 99,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
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
    return [GPT2]
