"""The second half of peft's names: rotations, selections, and tokens; see :mod:`refarch_interchange.mapping.table`."""

from __future__ import annotations

from refarch import InterchangeSpec, TensorRule

INITIAL = ("init_weights",)
ROTATIONS = (
    InterchangeSpec(
        name="peft-oft",
        summary="OFT",
        format="peft",
        kind="OFT",
        technique="oft",
        options={"share_blocks": "block_share"},
        derived={"block_size": "refarch_interchange.mapping.derived:block_size"},
        silent=(
            *INITIAL,
            "r",
            "oft_block_size",
            "eps",
            "module_dropout",
            "use_cayley_neumann",
            "num_cayley_neumann_terms",
        ),
        tensors=(TensorRule(own="rotation.angles", theirs="oft_R.weight", operation="negated", rows=False),),
        codec="refarch_interchange.codecs.rotations:Series",
        fused="whole",
        note="peft's default computes the rotation by a truncated series, refarch exactly",
    ),
    InterchangeSpec(
        name="peft-boft",
        summary="BOFT",
        format="peft",
        kind="BOFT",
        technique="boft",
        options={"factors": "boft_n_butterfly_factor"},
        derived={"block_size": "refarch_interchange.mapping.derived:butterfly_block_size"},
        silent=(*INITIAL, "boft_block_size", "boft_block_num", "boft_dropout"),
        tensors=(
            TensorRule(own="rotations.{}.angles", theirs="boft_R", operation="skew", rows=False),
            TensorRule(own="scales", theirs="boft_s", operation="column", absent=1.0),
        ),
        codec="refarch_interchange.codecs.rotations:Butterfly",
        fused="whole",
        note="peft counts whole blocks; a rotation is given by the skew-symmetric half of one, which is what is trained"
        " here",
    ),
    InterchangeSpec(
        name="peft-hra",
        summary="Householder reflections",
        format="peft",
        kind="HRA",
        technique="hra",
        options={"rank": "r"},
        silent=INITIAL,
        tensors=(TensorRule(own="vectors", theirs="hra_u", operation="transposed", rows=False),),
        fused="whole",
    ),
)
LN_TUNING = InterchangeSpec(
    name="peft-ln-tuning",
    summary="Norms that train",
    format="peft",
    kind="LN_TUNING",
    technique="ln-tuning",
    targets="norm",
    tensors=(TensorRule(own="*", theirs="ln_tuning_layers.*"),),
)
BEFT = InterchangeSpec(
    name="peft-beft",
    summary="Biases of linear layers that train",
    format="peft",
    kind="BEFT",
    technique="bitfit",
    silent=INITIAL,
    tensors=(TensorRule(own="bias", theirs="beft_bias", operation="leading"),),
    codec="refarch_interchange.codecs.biases:Added",
    fused="whole",
)
ADAPTION_PROMPT = InterchangeSpec(
    name="peft-adaption-prompt",
    summary="Adaption prompts (LLaMA-Adapter)",
    format="peft",
    kind="ADAPTION_PROMPT",
    technique="adaption-prompt",
    targets="attention",
    options={"length": "adapter_len"},
    silent=("adapter_layers", "target_modules"),
    tensors=(
        TensorRule(own="tokens", theirs="adaption_prompt", operation="leading"),
        TensorRule(own="gate.bias", theirs="adaption_gate"),
    ),
    codec="refarch_interchange.codecs.attention:TopLayers",
)
VIRTUAL = ("token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers")
TEXT = ("prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
_PROMPT = "refarch_interchange.codecs.tokens:Prompt"
TOKENS = (
    *(
        InterchangeSpec(
            name=f"peft-prompt-tuning-{name.lower().replace('_', '-')}",
            summary=f"Prompt tuning, from {what}",
            format="peft",
            kind="PROMPT_TUNING",
            technique="prompt-tuning",
            when={"prompt_tuning_init": name},
            options={"length": "num_virtual_tokens"},
            fixed=fixed,
            silent=(*VIRTUAL, *TEXT),
            targets="none",
            codec=_PROMPT,
        )
        for name, what, fixed in (
            ("RANDOM", "random numbers", {"init": "uniform"}),
            ("SAMPLE_VOCAB", "random words", {"init": "vocabulary"}),
            ("TEXT", "words of a text", {}),
        )
    ),
    *(
        InterchangeSpec(
            name=f"peft-p-tuning-{encoder}",
            summary=f"P-tuning: the tokens that its {encoder.upper()} makes",
            format="peft",
            kind="P_TUNING",
            technique="p-tuning",
            when={"encoder_reparameterization_type": encoder.upper()},
            options={"length": "num_virtual_tokens", "hidden": "encoder_hidden_size"},
            fixed={"encoder": encoder},
            silent=(*VIRTUAL, "encoder_num_layers", "encoder_dropout"),
            targets="none",
            codec=_PROMPT,
        )
        for encoder in ("mlp", "lstm")
    ),
    *(
        InterchangeSpec(
            name=f"{name}{suffix}",
            summary=f"{summary}{where}",
            format="peft",
            kind=kind,
            technique="prefix-tuning",
            preset=preset,
            when=when,
            options={"length": "num_virtual_tokens"},
            silent=(*VIRTUAL, *silent),
            targets="none",
            codec=f"refarch_interchange.codecs.tokens:{codec}",
            note=note,
        )
        for name, kind, summary, silent, note in (
            (
                "peft-prefix-tuning",
                "PREFIX_TUNING",
                "Prefix tuning: keys and values",
                ("encoder_hidden_size", "init_weights", "prefix_projection"),
                "peft trained the keys and values themselves; here a network makes them while training, and what is"
                " saved is the same",
            ),
            (
                "peft-cartridge",
                "CARTRIDGE",
                "A cache that trains, which is a prefix",
                ("num_frozen_tokens",),
                "written as PREFIX_TUNING, whose file is the same",
            ),
        )
        for suffix, where, preset, when, codec in (
            ("-counted", ", in an encoder-decoder", "counted", {"num_transformer_submodules": 2}, "CountedPrefix"),
            ("", "", None, {}, "Prefix"),
        )
    ),
)

OTHERS: tuple[InterchangeSpec, ...] = (*ROTATIONS, LN_TUNING, BEFT, ADAPTION_PROMPT, *TOKENS)
