"""A configuration made small: the same structure, widths and depths that a test can afford."""

from __future__ import annotations

import json
import re
from typing import Any

from transformers import AutoConfig, PretrainedConfig

LAYERS = 2
_SIZES: tuple[tuple[str, int], ...] = (
    (r"vocab_size", 99),
    (r"(num_)?(encoder_|decoder_)?(hidden_)?layers|n_layers?|num_decoder_layers|num_encoder_layers", LAYERS),
    (r"(encoder_|decoder_)?(num_)?(attention_)?heads|n_heads?", 4),
    (r"hidden_size|d_model|n_embd|dim|embedding_size|word_embed_proj_dim", 32),
    (r"head_dim|d_kv", 8),
    (r"rotary_dim|qk_rope_head_dim", 4),
    (r"(.*_)?(intermediate_size|ffn_dim|hidden_dim)|d_ff|n_inner", 48),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len", 64),
    (r"num_local_experts|num_experts|n_routed_experts", 4),
    (r"num_experts_per_tok|top_k_experts", 2),
)
"""Names of sizes in transformers' configurations, and what they become. They are the library's words, of any family."""
_DEPTH = 1
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}
_NOT_STRUCTURE = re.compile(
    r"_.*|transformers_version|architectures|(torch_)?dtype|id2label|label2id|model_type|layer_types"
)


def shrink(config: PretrainedConfig, depth: bool = True, widths: bool = True) -> dict[str, Any]:
    """Values of a tiny configuration of the same structure: what differs from the type's defaults.

    Args:
        config: the original.
        depth: take two layers.
        widths: make them narrow.
    """
    present, default = config.to_dict(), AutoConfig.for_model(config.model_type).to_dict()
    kept = {
        name: value
        for name, value in present.items()
        if value != default.get(name) and not _NOT_STRUCTURE.fullmatch(name) and _is_plain(value)
    }
    changes: dict[str, Any] = {}
    for name, value in present.items():
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        if name.endswith("_token_id"):
            changes[name] = _IDS.get(name, 2)
            continue
        for position, (pattern, size) in enumerate(_SIZES):
            if (position != _DEPTH or depth) and (position <= _DEPTH or widths) and re.fullmatch(pattern, name):
                changes[name] = size
    if widths and "num_key_value_heads" in present:
        heads, groups = config.num_attention_heads, present["num_key_value_heads"] or config.num_attention_heads
        changes["num_key_value_heads"] = 4 if groups == heads else 1 if groups == 1 else 2
    if getattr(config, "is_encoder_decoder", False):
        changes["decoder_start_token_id"] = _IDS["decoder_start_token_id"]
    for name in _IDS if not getattr(config, "is_encoder_decoder", False) else ():
        if name in present and name != "decoder_start_token_id":
            changes[name] = _IDS[name]
    return {**kept, **changes}


def tiny_config(model_type: str, values: dict[str, Any]) -> PretrainedConfig:
    """The configuration that the values make, with every dropout rate at zero."""
    config = AutoConfig.for_model(model_type, **values)
    for name, value in list(vars(config).items()):
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, list)
