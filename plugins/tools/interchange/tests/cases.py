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
        shift: how much later peft counts positions, in models whose positions can be told.
        families: those that it is tried on.
        slots: family to the slots to attach at, where the technique's own are nothing that peft can have.
        own: family to further options for ``refarch.attach``.
    """

    kind: str
    technique: str
    options: dict[str, Any]
    config: Callable[[str], Any]
    skip: dict[str, str] = {}
    back: str = ""
    shift: int = 0
    slots: dict[str, list[str]] = {}
    families: tuple[str, ...] = FAMILIES
    own: dict[str, dict[str, Any]] = {}


def on_linear(kind: str, family: str, apart: bool = False, **options: Any) -> Any:
    """A configuration for linear layers; GPT-2's store their weight transposed, and the first is a fused one."""
    fused = {"fan_in_fan_out": True} if family == "gpt2" else {}
    targets = ["attn.c_proj", "mlp.c_fc"] if apart and family == "gpt2" else PAIR[family]
    return getattr(peft, kind)(target_modules=targets, **fused, **options)


def ia3(family: str) -> Any:
    """Keys, values, and the input of the last projection; GPT-2's keys and values are in one with the queries."""
    last = {"llama": "down_proj", "bert": "output.dense", "t5": "wo", "gpt2": "mlp.c_proj"}[family]
    both = {"llama": ["k_proj", "v_proj"], "bert": ["key", "value"], "t5": ["k", "v"], "gpt2": ["c_attn"]}[family]
    fused = family == "gpt2"
    return peft.IA3Config(target_modules=[*both, last], feedforward_modules=[last], fan_in_fan_out=fused)


APART = {"gpt2": ["attention.output", "ffn.down"]}
"""GPT-2's slots that are no parts of a fused projection."""
COUNTED: dict[str, Any] = {"preset": "counted", "layers": {"stacks": ["decoder"]}}
NO_CONV1D = {"gpt2": "peft has it for no Conv1D"}
NORMS = {
    "llama": ["input_layernorm", "norm"],
    "bert": ["output.LayerNorm"],
    "t5": ["final_layer_norm", "layer.0.layer_norm"],
    "gpt2": ["ln_1", "ln_f"],
}

CASES: dict[str, Case] = {
    "lora": Case("LORA", "lora", {"rank": 3, "alpha": 5}, lambda f: on_linear("LoraConfig", f, r=3, lora_alpha=5)),
    "rslora": Case(
        "LORA",
        "lora",
        {"preset": "rslora", "rank": 3},
        lambda f: on_linear("LoraConfig", f, r=3, lora_alpha=5, use_rslora=True),
    ),
    "dora": Case("LORA", "dora", {"rank": 3}, lambda f: on_linear("LoraConfig", f, r=3, use_dora=True)),
    "pissa": Case(
        "LORA",
        "lora",
        {"preset": "pissa", "rank": 3},
        lambda f: on_linear("LoraConfig", f, apart=True, r=3, init_lora_weights="pissa"),
        back="lora",
    ),
    "olora": Case(
        "LORA",
        "lora",
        {"preset": "olora", "rank": 3},
        lambda f: on_linear("LoraConfig", f, r=3, init_lora_weights="olora"),
        {"gpt2": "peft's own OLoRA fails at a Conv1D"},
        back="lora",
    ),
    "adalora": Case(
        "ADALORA",
        "adalora",
        {"rank": 4, "target_rank": 2},
        lambda f: on_linear("AdaLoraConfig", f, init_r=4, target_r=2, total_step=9),
    ),
    "ia3": Case("IA3", "ia3", {}, ia3),
    "loha": Case(
        "LOHA", "loha", {"rank": 3, "alpha": 5}, lambda f: on_linear("LoHaConfig", f, r=3, alpha=5), NO_CONV1D
    ),
    "lokr": Case(
        "LOKR", "lokr", {"rank": 2, "alpha": 3}, lambda f: on_linear("LoKrConfig", f, r=2, alpha=3), NO_CONV1D
    ),
    "lokr-both": Case(
        "LOKR",
        "lokr",
        {"rank": 1, "factor": 4, "decompose_both": True},
        lambda f: on_linear("LoKrConfig", f, r=1, decompose_factor=4, decompose_both=True),
        NO_CONV1D,
    ),
    "oft": Case(
        "OFT",
        "oft",
        {"block_size": 8},
        lambda f: on_linear("OFTConfig", f, r=0, oft_block_size=8, use_cayley_neumann=False),
        NO_CONV1D,
    ),
    "oft-shared": Case(
        "OFT",
        "oft",
        {"block_size": 4, "share_blocks": True},
        lambda f: on_linear("OFTConfig", f, r=0, oft_block_size=4, use_cayley_neumann=False, block_share=True),
        NO_CONV1D,
    ),
    "boft": Case(
        "BOFT",
        "boft",
        {"block_size": 4, "factors": 2},
        lambda f: on_linear("BOFTConfig", f, boft_block_size=4, boft_n_butterfly_factor=2),
        NO_CONV1D,
    ),
    "hra": Case("HRA", "hra", {"rank": 4}, lambda f: on_linear("HRAConfig", f, r=4), NO_CONV1D),
    "vera": Case(
        "VERA",
        "vera",
        {"rank": 4},
        lambda f: on_linear("VeraConfig", f, apart=True, r=4),
        slots={"llama": ["attention.query", "attention.output"], "gpt2": ["attention.output"]},
    ),
    "fourierft": Case(
        "FOURIERFT",
        "fourierft",
        {"coefficients": 30, "alpha": 20},
        lambda f: on_linear("FourierFTConfig", f, apart=True, n_frequency=30, scaling=20),
        slots=APART,
    ),
    "ln-tuning": Case("LN_TUNING", "ln-tuning", {}, lambda f: peft.LNTuningConfig(target_modules=NORMS[f])),
    "beft": Case(
        "BEFT",
        "bitfit",
        {"slots": ["attention.value", "attention.output"]},
        lambda f: peft.BeftConfig(target_modules=["value", "output.dense"] if f == "bert" else ["v_proj", "fc2"]),
        families=("bert", "bart", "opt"),
    ),
    "adaption-prompt": Case(
        "ADAPTION_PROMPT",
        "adaption-prompt",
        {"length": 3, "layers": {"last": 1}},
        lambda f: peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=1, task_type="CAUSAL_LM"),
        {
            **dict.fromkeys(("bert", "t5"), "peft has adaption prompts for Llama, Mistral and GPT-2 alone"),
            "gpt2": "peft adds GPT-2's after the output projection, the paper before it",
        },
    ),
    "prompt-tuning": Case(
        "PROMPT_TUNING",
        "prompt-tuning",
        {"length": 3},
        lambda f: peft.PromptTuningConfig(num_virtual_tokens=3, task_type=TASKS[f]),
    ),
    "p-tuning-mlp": Case(
        "P_TUNING",
        "p-tuning",
        {"length": 3, "hidden": 8},
        lambda f: peft.PromptEncoderConfig(num_virtual_tokens=3, task_type=TASKS[f]),
    ),
    "p-tuning-lstm": Case(
        "P_TUNING",
        "p-tuning",
        {"length": 3, "hidden": 8, "encoder": "lstm"},
        lambda f: peft.PromptEncoderConfig(
            num_virtual_tokens=3, task_type=TASKS[f], encoder_reparameterization_type="LSTM", encoder_hidden_size=8
        ),
        back="p-tuning",
    ),
    "cartridge": Case(
        "CARTRIDGE",
        "prefix-tuning",
        {"length": 3, "hidden": 8},
        lambda f: peft.CartridgeConfig(num_virtual_tokens=3, num_frozen_tokens=1, task_type=TASKS[f]),
        shift=3,
        own={"t5": COUNTED},
    ),
    "prefix-tuning": Case(
        "PREFIX_TUNING",
        "prefix-tuning",
        {"length": 3, "hidden": 8},
        lambda f: peft.PrefixTuningConfig(num_virtual_tokens=3, task_type=TASKS[f]),
        shift=3,
        own={"t5": COUNTED},
    ),
}
