"""The backbones of peft's comparison, and what its configurations are as techniques of refarch's.

The table of techniques is that of refarch-interchange, which reads and writes peft's checkpoints by it: a configuration
means the same in a result as in a file. What it has no word for is not matched, and the result is kept under peft's own
name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from refarch_interchange.mapping import settings
from refarch_interchange.mapping.mappings import mappings

from refarch import InterchangeSpec, Registry
from refarch.plugins import default_registry


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
    without: tuple[str, ...] = ()
    """Parameters that its layers lack, so that no selection finds them."""
    note: str = ""


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
        without=("bias",),
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


FULL = "full"
"""What a result without a configuration of peft's is: full finetuning."""


class Found(NamedTuple):
    """What a configuration is here."""

    technique: str
    options: dict[str, Any]
    note: str = ""


def match(
    config: Mapping[str, Any] | None, training: Mapping[str, Any], model: Model, registry: Registry | None = None
) -> Found:
    """The technique and options of a configuration of peft's; peft's own name, with the reason, where there is none."""
    if config is None:
        return Found(FULL, {})
    kind = str(config["peft_type"])
    unmapped = "peft/" + kind.lower().replace("_", "-")  # no plugin's name has a slash
    found = settings.match(config, mappings(registry or default_registry()), training)
    mapping = found.mapping
    if mapping is None:
        return Found(unmapped, {}, found.reason or "no technique of refarch's is known to be the same")
    parameters = _selected(mapping, registry or default_registry())
    if parameters and parameters <= set(model.without):
        return Found(unmapped, {}, f"it adds {', '.join(parameters)} where the backbone has none")
    targets = () if mapping.targets == "attention" else config.get("target_modules") or ()
    strange = [name for name in targets if name not in model.slots]
    if strange:
        reason = f"{', '.join(strange)} has no counterpart in technique {mapping.technique!r}"
        return Found(unmapped, {}, reason)
    options = settings.options(mapping, config, settings.Place("", model.width, model.width))
    if mapping.preset:
        options["preset"] = mapping.preset
    if targets:
        inputs = set(config.get(mapping.inputs) or ()) if mapping.inputs else set()
        named = [model.slots[name] + (":input" if name in inputs else "") for name in sorted(targets)]
        options["slots"] = list(dict.fromkeys(named))
    return Found(mapping.technique, options, mapping.note)


def _selected(mapping: InterchangeSpec, registry: Registry) -> set[str]:
    """Which parameters a mapping's technique selects, if its plugin is there and it does."""
    if mapping.technique not in registry.names("technique"):
        return set()
    return {name for module in registry.technique(mapping.technique).modules for name in module.parameters}
