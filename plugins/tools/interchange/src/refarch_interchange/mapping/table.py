"""peft's names for techniques, settings and tensors, and refarch's for the same: plain data, tried from the top.

Shared with refarch-compare, which reads the results of others by it.
"""

from __future__ import annotations

from refarch import InterchangeSpec, TensorRule
from refarch_interchange.mapping.table_others import INITIAL, OTHERS

LOW_RANK = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
LORA_SILENT = ("megatron_core", "qalora_group_size")
STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the base as it is: what a finished module computes does not depend on them."""
PATTERNS = {"rank": "rank_pattern", "alpha": "alpha_pattern"}
JOIN = "refarch_interchange.mapping.joining:stacked"


def _low_rank(down: str = "down", up: str = "up") -> tuple[TensorRule, ...]:
    return (
        TensorRule(own=down, theirs="lora_A.weight", rows=False),
        TensorRule(own=up, theirs="lora_B.weight"),
    )


LORA = (
    InterchangeSpec(
        name="peft-dora",
        summary="DoRA",
        format="peft",
        kind="LORA",
        technique="dora",
        when={"use_dora": True, "init_lora_weights": STARTS, "use_rslora": (False, True)},
        options={"rank": "r", "alpha": "lora_alpha"},
        derived={"alpha": "refarch_interchange.mapping.derived:dora_alpha"},
        patterns=PATTERNS,
        silent=(*LORA_SILENT, "lora_dropout"),
        tensors=(
            *_low_rank("update.down", "update.up"),
            TensorRule(own="magnitude", theirs="lora_magnitude_vector", absent="row norms"),
        ),
        join=JOIN,
        fused="parts",
    ),
    InterchangeSpec(
        name="peft-lora-fa",
        summary="LoRA with A frozen, which only the optimizer knows of",
        format="peft",
        kind="LORA",
        technique="lora",
        preset="lora-fa",
        when={"train.optimizer_type": "lora-fa", "use_dora": False, "init_lora_weights": STARTS},
        options={**LOW_RANK, "rank_stabilised": "use_rslora"},
        patterns=PATTERNS,
        silent=LORA_SILENT,
        tensors=_low_rank(),
        join=JOIN,
        fused="parts",
    ),
    InterchangeSpec(
        name="peft-lora",
        summary="LoRA and rsLoRA",
        format="peft",
        kind="LORA",
        technique="lora",
        when={"train.optimizer_type": "AdamW", "use_dora": False, "init_lora_weights": STARTS},
        options={**LOW_RANK, "rank_stabilised": "use_rslora"},
        patterns=PATTERNS,
        silent=LORA_SILENT,
        untold=("init", "learning_rate_ratio"),
        tensors=_low_rank(),
        join=JOIN,
        fused="parts",
    ),
)

START_FROM_WEIGHT = {
    "pissa": ("pissa", *(f"pissa_niter_{number}" for number in range(1, 65))),
    "olora": ("olora",),
}
FROM_WEIGHT = tuple(
    InterchangeSpec(
        name=f"peft-{preset}",
        summary="LoRA from factors of the weight, which peft takes out of the base when it loads the file",
        format="peft",
        kind="LORA",
        technique="lora",
        preset=preset,
        when={"init_lora_weights": names, "use_dora": False},
        options={**LOW_RANK, "rank_stabilised": "use_rslora"},
        patterns=PATTERNS,
        silent=LORA_SILENT,
        untold=("learning_rate_ratio",),
        tensors=_low_rank(),
        rewrite="refarch_interchange.mapping.joining:from_weight",
        written_as="peft-lora",
        note=f"{preset} is written as LoRA of twice the rank beside the base as it is, which computes the same",
    )
    for preset, names in START_FROM_WEIGHT.items()
)
ADALORA = InterchangeSpec(
    name="peft-adalora",
    summary="AdaLoRA with the triplets that are left",
    format="peft",
    kind="ADALORA",
    technique="adalora",
    when={"init_lora_weights": (True, False), "use_dora": False},
    options={
        "rank": "init_r",
        "alpha": "lora_alpha",
        "dropout": "lora_dropout",
        "orthogonality": "orth_reg_weight",
        "tinit": "tinit",
        "tfinal": "tfinal",
        "delta_t": "deltaT",
        "beta1": "beta1",
        "beta2": "beta2",
    },
    derived={"target_rank": "refarch_interchange.mapping.derived:target_rank"},
    settings="refarch_interchange.mapping.derived:adalora_settings",
    silent=(*LORA_SILENT, "target_r", "r", "rank_pattern", "total_step"),
    tensors=(
        TensorRule(own="left", theirs="lora_B"),
        TensorRule(own="values", theirs="lora_E", operation="column", rows=False),
        TensorRule(own="right", theirs="lora_A", rows=False),
    ),
    codec="refarch_interchange.codecs.ranks:Triplets",
    rewrite="refarch_interchange.mapping.joining:kept",
    join="refarch_interchange.mapping.joining:ranks_stacked",
    fused="parts",
    note="peft divides by the rank plus 1e-5",
)
IA3 = InterchangeSpec(
    name="peft-ia3",
    summary="(IA)3",
    format="peft",
    kind="IA3",
    technique="ia3",
    silent=("init_ia3_weights",),
    inputs="feedforward_modules",
    tensors=(TensorRule(own="factors", theirs="ia3_l", operation="column", absent=1.0),),
    fused="parts",
)

DROPS = ("rank_dropout", "module_dropout")
WEIGHTS = (
    InterchangeSpec(
        name="peft-loha",
        summary="LoHa",
        format="peft",
        kind="LOHA",
        technique="loha",
        options={"rank": "r", "alpha": "alpha"},
        patterns=PATTERNS,
        silent=(*INITIAL, *DROPS),
        tensors=(
            TensorRule(own="up_1", theirs="hada_w1_a"),
            TensorRule(own="down_1", theirs="hada_w1_b", rows=False),
            TensorRule(own="up_2", theirs="hada_w2_a"),
            TensorRule(own="down_2", theirs="hada_w2_b", rows=False),
        ),
        fused="parts",
    ),
    InterchangeSpec(
        name="peft-lokr",
        summary="LoKr",
        format="peft",
        kind="LOKR",
        technique="lokr",
        options={"rank": "r", "alpha": "alpha", "decompose_both": "decompose_both"},
        derived={"factor": "refarch_interchange.mapping.derived:factor"},
        settings="refarch_interchange.mapping.derived:factor_settings",
        patterns=PATTERNS,
        silent=(*INITIAL, *DROPS, "rank_dropout_scale", "decompose_factor"),
        tensors=(
            TensorRule(own="first.matrix", theirs="lokr_w1"),
            TensorRule(own="first.up", theirs="lokr_w1_a"),
            TensorRule(own="first.down", theirs="lokr_w1_b"),
            TensorRule(own="second.matrix", theirs="lokr_w2"),
            TensorRule(own="second.up", theirs="lokr_w2_a"),
            TensorRule(own="second.down", theirs="lokr_w2_b"),
        ),
    ),
    InterchangeSpec(
        name="peft-vera",
        summary="VeRA",
        format="peft",
        kind="VERA",
        technique="vera",
        options={"rank": "r", "d_initial": "d_initial", "dropout": "vera_dropout"},
        silent=(*INITIAL, "save_projection", "projection_prng_key"),
        tensors=(
            TensorRule(own="d", theirs="vera_lambda_d", rows=False),
            TensorRule(own="b", theirs="vera_lambda_b"),
        ),
        codec="refarch_interchange.codecs.projections:Projections",
    ),
    InterchangeSpec(
        name="peft-fourierft",
        summary="FourierFT",
        format="peft",
        kind="FOURIERFT",
        technique="fourierft",
        options={"coefficients": "n_frequency", "alpha": "scaling", "entry_seed": "random_loc_seed"},
        patterns={"coefficients": "n_frequency_pattern"},
        silent=INITIAL,
        tensors=(TensorRule(own="coefficients", theirs="fourierft_spectrum"),),
        codec="refarch_interchange.codecs.entries:Entries",
    ),
)
PEFT: tuple[InterchangeSpec, ...] = (*LORA, *FROM_WEIGHT, ADALORA, IA3, *WEIGHTS, *OTHERS)
"""Every mapping, by peft's type."""
