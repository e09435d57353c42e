"""T5 (Raffel et al. 2019, arXiv 1910.10683): encoder-decoder with relative position biases."""

from refarch import FamilySpec, StackTable, TinyModel, hookimpl

_SELF = {
    "attention.query": "layer.0.SelfAttention.q",
    "attention.key": "layer.0.SelfAttention.k",
    "attention.value": "layer.0.SelfAttention.v",
    "attention.output": "layer.0.SelfAttention.o",
    "attention.key_value": "layer.0.SelfAttention",
    "attention.norm": "layer.0.layer_norm",
}
_CROSS = {
    "cross_attention.query": "layer.1.EncDecAttention.q",
    "cross_attention.key": "layer.1.EncDecAttention.k",
    "cross_attention.value": "layer.1.EncDecAttention.v",
    "cross_attention.output": "layer.1.EncDecAttention.o",
    "cross_attention.key_value": "layer.1.EncDecAttention",
    "cross_attention.norm": "layer.1.layer_norm",
}


def _ffn(position: int) -> dict[str, str]:
    return {
        "ffn.up": f"layer.{position}.DenseReluDense.wi | layer.{position}.DenseReluDense.wi_1",
        "ffn.gate": f"layer.{position}.DenseReluDense.wi_0?",
        "ffn.down": f"layer.{position}.DenseReluDense.wo",
        "ffn.norm": f"layer.{position}.layer_norm",
    }


T5 = FamilySpec(
    name="t5",
    summary="T5: encoder-decoder, relative position biases, cross-attention",
    model_types=("t5",),
    stacks=(
        StackTable(
            name="encoder",
            module="encoder",
            layers="encoder.block.{}",
            slots={**_SELF, **_ffn(1)},
            final_norm="encoder.final_layer_norm",
            position_bias="encoder.block.0.layer.0.SelfAttention",
        ),
        StackTable(
            name="decoder",
            module="decoder",
            layers="decoder.block.{}",
            slots={**_SELF, **_CROSS, **_ffn(2)},
            final_norm="decoder.final_layer_norm",
            position_bias="decoder.block.0.layer.0.SelfAttention",
        ),
    ),
    embedding="encoder.embed_tokens",  # which is what runs; "shared" only holds the weight
    head="lm_head | classification_head | classifier | qa_outputs",
    tiny=TinyModel(
        model_type="t5",
        config={
            "vocab_size": 99,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        auto_classes=("AutoModelForSeq2SeqLM",),
    ),
)


@hookimpl
def refarch_backbones() -> list[FamilySpec]:
    """The family of this plugin."""
    return [T5]
