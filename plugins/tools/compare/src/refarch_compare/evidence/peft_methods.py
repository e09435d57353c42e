"""peft's names for methods, settings and modules, and refarch's for the same: the importer's tables, plain data.

A method is matched by peft's type and the settings in ``when``; the first that matches wins. A setting that is neither
used nor neutral nor in ``silent`` means something that has no counterpart here: then nothing is matched, and the
result is kept under peft's own name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Model(NamedTuple):
    """A backbone of the comparison."""

    family: str | None
    """refarch's family, where there is one."""
    parameters: int
    """As the comparison's own results for full finetuning give it."""
    width: int
    """d, the hidden size."""
    prefix: str
    """What the names of its experiments begin with."""
    slots: Mapping[str, str]
    """peft's target modules as slots."""
    config: Mapping[str, Any]
    """Values of its transformers configuration, enough to build its shape; empty where it is no such model."""
    note: str = ""


class Method(NamedTuple):
    """One of peft's methods as a technique of refarch's."""

    technique: str
    options: Mapping[str, str] = {}
    """refarch's option, and the setting of peft's that it has the value of."""
    when: Mapping[str, Any] = {}
    """Settings that must have these values; those of the training as ``train.NAME``."""
    fixed: Mapping[str, Any] = {}
    """Options with one value for all of this method's configurations."""
    derived: Mapping[str, Callable[[Mapping[str, Any], Model], Any]] = {}
    """Options that are computed from several settings."""
    silent: tuple[str, ...] = ()
    """Settings that do not change what the technique is."""
    note: str = ""
    """Where refarch's count of trainable parameters differs, and why."""


LLAMA = {
    "q_proj": "attention.query",
    "k_proj": "attention.key",
    "v_proj": "attention.value",
    "o_proj": "attention.output",
    "gate_proj": "ffn.gate",
    "up_proj": "ffn.up",
    "down_proj": "ffn.down",
    "input_layernorm": "attention.norm",
    "post_attention_layernorm": "ffn.norm",
    "norm": "final_norm",
}
FLUX = {
    **dict.fromkeys(("to_q", "add_q_proj"), "attention.query"),
    **dict.fromkeys(("to_k", "add_k_proj"), "attention.key"),
    **dict.fromkeys(("to_v", "add_v_proj"), "attention.value"),
    **dict.fromkeys(("to_out.0", "to_add_out"), "attention.output"),
    "linear_in": "ffn.up",
    "linear_out": "ffn.down",
    "to_qkv_mlp_proj": "ffn.up",
    "norm_q": "attention.query_norm",
    "norm_k": "attention.key_norm",
}

MODELS: dict[str, Model] = {
    "meta-llama/Llama-3.2-3B": Model(
        family="llama",
        parameters=3_212_749_824,
        width=3072,
        prefix="llama-3.2-3B",
        slots=LLAMA,
        config={
            "model_type": "llama",
            "vocab_size": 128_256,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 28,
            "num_attention_heads": 24,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "tie_word_embeddings": True,
        },
    ),
    "black-forest-labs/FLUX.2-klein-base-4B": Model(
        family=None,
        parameters=3_875_544_576,
        width=3072,
        prefix="flux2-klein",
        slots=FLUX,
        config={},
        note="a diffusion transformer, which no family of refarch's serves: its slots stand for like parts",
    ),
}
"""The comparison's backbones, by hub id."""


def block_size(config: Mapping[str, Any], model: Model) -> int:
    """Of OFT: given, or the width by the number of blocks."""
    return int(config.get("oft_block_size") or 0) or model.width // int(config["r"])


def rescaled(config: Mapping[str, Any], model: Model) -> list[str]:
    """Of (IA)3: outputs, and inputs of what peft calls feed-forward modules."""
    before = set(config.get("feedforward_modules") or ())
    named = [model.slots[name] + (":input" if name in before else "") for name in sorted(config["target_modules"])]
    return list(dict.fromkeys(named))


def factor(config: Mapping[str, Any], model: Model) -> int | None:
    """Of LoKr: -1 leaves it to the method."""
    given = int(config["decompose_factor"])
    return None if given < 0 else given


INITIAL = ("init_weights",)
LOW_RANK = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
LORA_SILENT = ("megatron_core", "qalora_group_size", "init_lora_weights")
VIRTUAL = ("token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers")

METHODS: tuple[tuple[str, Method], ...] = (
    ("LORA", Method("dora", {"rank": "r", "alpha": "lora_alpha"}, {"use_dora": True}, silent=LORA_SILENT)),
    (
        "LORA",
        Method(
            "lora",
            LOW_RANK,
            {"train.optimizer_type": "lora-fa", "init_lora_weights": True},
            {"preset": "lora-fa"},
            silent=LORA_SILENT,
        ),
    ),
    (
        "LORA",
        Method(
            "lora",
            {**LOW_RANK, "rank_stabilised": "use_rslora"},
            {"train.optimizer_type": "AdamW", "init_lora_weights": True},
            silent=LORA_SILENT,
        ),
    ),
    (
        "ADALORA",
        Method(
            "adalora",
            {
                "rank": "init_r",
                "target_rank": "target_r",
                "alpha": "lora_alpha",
                "dropout": "lora_dropout",
                "orthogonality": "orth_reg_weight",
                "tinit": "tinit",
                "tfinal": "tfinal",
                "delta_t": "deltaT",
                "beta1": "beta1",
                "beta2": "beta2",
            },
            {"init_lora_weights": True},
            silent=(*LORA_SILENT, "r", "rank_pattern", "total_step"),
        ),
    ),
    (
        "IA3",
        Method("ia3", derived={"slots": rescaled}, silent=("feedforward_modules", "init_ia3_weights")),
    ),
    ("LN_TUNING", Method("ln-tuning")),
    ("LOHA", Method("loha", {"rank": "r", "alpha": "alpha"}, silent=INITIAL)),
    (
        "LOKR",
        Method(
            "lokr", {"rank": "r", "alpha": "alpha"}, derived={"factor": factor}, silent=(*INITIAL, "decompose_factor")
        ),
    ),
    ("VERA", Method("vera", {"rank": "r", "d_initial": "d_initial"}, silent=(*INITIAL, "save_projection"))),
    (
        "FOURIERFT",
        Method("fourierft", {"coefficients": "n_frequency", "alpha": "scaling"}, silent=("random_loc_seed",)),
    ),
    (
        "OFT",
        Method(
            "oft",
            derived={"block_size": block_size},
            silent=(*INITIAL, "r", "oft_block_size", "eps", "use_cayley_neumann", "num_cayley_neumann_terms"),
        ),
    ),
    (
        "BOFT",
        Method(
            "boft",
            {"block_size": "boft_block_size", "factors": "boft_n_butterfly_factor"},
            silent=INITIAL,
            note="peft counts whole blocks; a rotation is given by the skew-symmetric half of one, which is what is"
            " trained here",
        ),
    ),
    ("HRA", Method("hra", {"rank": "r"}, silent=INITIAL)),
    (
        "ADAPTION_PROMPT",
        Method("adaption-prompt", {"length": "adapter_len"}, silent=("adapter_layers", "target_modules")),
    ),
    (
        "PROMPT_TUNING",
        Method(
            "prompt-tuning",
            {"length": "num_virtual_tokens"},
            {"prompt_tuning_init": "SAMPLE_VOCAB"},
            {"init": "vocabulary"},
            silent=VIRTUAL,
        ),
    ),
    (
        "PROMPT_TUNING",
        Method(
            "prompt-tuning",
            {"length": "num_virtual_tokens"},
            {"prompt_tuning_init": "RANDOM"},
            {"init": "uniform"},
            silent=VIRTUAL,
        ),
    ),
    (
        "P_TUNING",
        Method(
            "p-tuning",
            {"length": "num_virtual_tokens", "hidden": "encoder_hidden_size"},
            {"encoder_reparameterization_type": "MLP", "encoder_num_layers": 2},
            {"encoder": "mlp"},
            silent=VIRTUAL,
        ),
    ),
    (
        "PREFIX_TUNING",
        Method(
            "prefix-tuning",
            {"length": "num_virtual_tokens"},
            silent=(*VIRTUAL, "encoder_hidden_size", "init_weights"),
            note="peft trained the keys and values themselves; here a network makes them while training, and what is"
            " saved is the same",
        ),
    ),
)
"""Every method that refarch has a technique for, by peft's type."""

FULL = "full"
"""What a result without a configuration of peft's is: full finetuning."""


class Found(NamedTuple):
    """What a configuration is here."""

    technique: str
    options: dict[str, Any]
    note: str = ""


def match(config: Mapping[str, Any] | None, training: Mapping[str, Any], model: Model) -> Found:
    """The technique and options of a configuration of peft's; peft's own name, with the reason, where there is none."""
    if config is None:
        return Found(FULL, {})
    kind = str(config["peft_type"])
    unmapped = "peft/" + kind.lower().replace("_", "-")  # no plugin's name has a slash
    reason = "no technique of refarch's is known to be the same"
    settings = {**config, **{f"train.{name}": value for name, value in training.items()}}
    for known, method in METHODS:
        if known != kind or any(settings.get(name) != value for name, value in method.when.items()):
            continue
        used = {*method.options.values(), *method.when, *method.silent, *_COMMON}
        other = [name for name, value in config.items() if name not in used and not _neutral(value)]
        targets = config.get("target_modules") or ()
        strange = [name for name in targets if name not in model.slots] if "target_modules" not in method.silent else []
        if other or strange:
            reason = f"{', '.join(other + strange)} has no counterpart in technique {method.technique!r}"
            continue
        options = {name: config[field] for name, field in method.options.items()} | dict(method.fixed)
        if targets and "target_modules" not in method.silent:
            options["slots"] = list(dict.fromkeys(model.slots[name] for name in sorted(targets)))
        options |= {name: compute(config, model) for name, compute in method.derived.items()}
        return Found(
            method.technique, {name: value for name, value in options.items() if value is not None}, method.note
        )
    return Found(unmapped, {}, reason)


_COMMON = (
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "target_modules",
)


def _neutral(value: Any) -> bool:
    """Whether a setting's value means: nothing special."""
    return value is None or value is False or value in ("none", 0, 0.0) or value == [] or value == {}
