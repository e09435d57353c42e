"""BART (Lewis et al. 2019, arXiv 1910.13461) and kin with the same layout: mBART, PLBART, Blenderbot, M2M-100 and NLLB.

Left out are Pegasus, Marian and Blenderbot-small: they scale what they look up outside of the embedding, which the slot
``inputs`` would miss.
"""

from refarch import FamilySpec, StackTable, TinyModel, hookimpl


def _attention(slot: str, module: str) -> dict[str, str]:
    return {
        f"{slot}.query": f"{module}.q_proj",
        f"{slot}.key": f"{module}.k_proj",
        f"{slot}.value": f"{module}.v_proj",
        f"{slot}.output": f"{module}.out_proj",
        f"{slot}.key_value": module,
        f"{slot}.norm": f"{module}_layer_norm",
    }


_SELF = _attention("attention", "self_attn")
_CROSS = _attention("cross_attention", "encoder_attn")
_FFN = {"ffn.up": "fc1", "ffn.down": "fc2", "ffn.norm": "final_layer_norm"}

BART = FamilySpec(
    name="bart",
    summary="BART: encoder-decoder, learned positions, cross-attention",
    model_types=("bart", "mbart", "plbart", "blenderbot", "m2m_100"),
    stacks=(
        StackTable(
            name="encoder",
            module="encoder",
            layers="encoder.layers.{}",
            slots={**_SELF, **_FFN},
            final_norm="encoder.layer_norm?",
        ),
        StackTable(
            name="decoder",
            module="decoder",
            layers="decoder.layers.{}",
            slots={**_SELF, **_CROSS, **_FFN},
            embedding_norm="decoder.layernorm_embedding?",
            final_norm="decoder.layer_norm?",
        ),
    ),
    embedding="encoder.embed_tokens",  # which is what runs; "shared" only holds the weight
    embedding_norm="encoder.layernorm_embedding?",
    head="lm_head | classification_head | qa_outputs",
    tiny=TinyModel(
        model_type="bart",
        config={
            "vocab_size": 99,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 64,
            "scale_embedding": True,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": None,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        auto_classes=("AutoModelForSeq2SeqLM",),
    ),
    kin={"mbart": {}, "plbart": {}, "blenderbot": {}, "m2m_100": {}},
)


@hookimpl
def refarch_backbones() -> list[FamilySpec]:
    """The family of this plugin."""
    return [BART]
