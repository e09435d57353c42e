"""peft's names for techniques, settings and tensors, and refarch's for the same: plain data, tried from the top.

Shared with refarch-compare, which reads the results of others by it.
"""

from __future__ import annotations

from refarch import InterchangeSpec, TensorRule

LOW_RANK = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
LORA_SILENT = ("megatron_core", "qalora_group_size")
STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the base as it is: what a finished module computes does not depend on them."""
PATTERNS = {"rank": "rank_pattern", "alpha": "alpha_pattern"}
JOIN = "refarch_interchange.joining:stacked"


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
        when={"use_dora": True, "init_lora_weights": STARTS, "use_rslora": False},
        options={"rank": "r", "alpha": "lora_alpha"},
        patterns=PATTERNS,
        silent=(*LORA_SILENT, "lora_dropout"),
        tensors=(
            *_low_rank("update.down", "update.up"),
            TensorRule(own="magnitude", theirs="lora_magnitude_vector", absent="row norms"),
        ),
        join=JOIN,
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
    ),
)

PEFT: tuple[InterchangeSpec, ...] = (*LORA,)
"""Every mapping, by peft's type."""
