"""Every technique that refarch and peft share, with options on both sides, and where peft itself cannot do it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import peft

FAMILIES = ("llama", "bert", "t5", "gpt2")
"""A decoder, an encoder, an encoder-decoder, and a decoder of fused Conv1D projections."""
PAIR = {
    "llama": ["q_proj", "v_proj"],
    "bert": ["query", "value", "intermediate.dense"],
    "t5": ["q", "wo"],
    "gpt2": ["c_attn", "mlp.c_proj"],
}
TASKS = {"llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "bert": "FEATURE_EXTRACTION"}


class Case(NamedTuple):
    """One technique.

    Attributes:
        kind: peft's type.
        technique: refarch's name.
        options: for ``refarch.attach``.
        config: peft's configuration for a family.
        skip: family to the reason why peft cannot.
        back: the technique that comes back from peft's files, where it is not the same.
    """

    kind: str
    technique: str
    options: dict[str, Any]
    config: Callable[[str], Any]
    skip: dict[str, str] = {}
    back: str = ""


def on_linear(kind: str, family: str, **options: Any) -> Any:
    """A configuration for linear layers; GPT-2's store their weight transposed."""
    fused = {"fan_in_fan_out": True} if family == "gpt2" else {}
    return getattr(peft, kind)(target_modules=PAIR[family], **fused, **options)


CASES: dict[str, Case] = {
    "lora": Case("LORA", "lora", {"rank": 3, "alpha": 5}, lambda f: on_linear("LoraConfig", f, r=3, lora_alpha=5)),
    "rslora": Case(
        "LORA",
        "lora",
        {"preset": "rslora", "rank": 3},
        lambda f: on_linear("LoraConfig", f, r=3, lora_alpha=5, use_rslora=True),
    ),
    "dora": Case("LORA", "dora", {"rank": 3}, lambda f: on_linear("LoraConfig", f, r=3, use_dora=True)),
}
