"""DeBERTa-v2 and -v3 (He et al. 2020, arXiv 2006.03654; He et al. 2021, arXiv 2111.09543): attention disentangled.

Scores are sums of content and relative-position terms that transformers computes in the module itself, not by its
attention function: there is no ``attention.key_value``. Where queries and keys of positions share the projections of
the content (v3), a module at ``attention.query`` or ``attention.key`` works on both.
"""

from refarch import FamilySpec, StackTable, TinyModel, hookimpl

DEBERTA_V2 = FamilySpec(
    name="deberta-v2",
    summary="DeBERTa-v2 and -v3: encoder, disentangled attention, relative positions",
    model_types=("deberta-v2",),
    stacks=(
        StackTable(
            name="encoder",
            layers="encoder.layer.{}",
            slots={
                "attention.query": "attention.self.query_proj",
                "attention.key": "attention.self.key_proj",
                "attention.value": "attention.self.value_proj",
                "attention.output": "attention.output.dense",
                "attention.norm": "attention.output.LayerNorm",
                "ffn.up": "intermediate.dense",
                "ffn.down": "output.dense",
                "ffn.norm": "output.LayerNorm",
            },
            unreachable={
                "attention.key_value": "transformers computes disentangled attention in the module itself, where"
                " nothing can join the keys and values",
            },
        ),
    ),
    embedding="embeddings.word_embeddings",
    embedding_norm="embeddings.LayerNorm",
    head="pooler + classifier | classifier | cls | lm_predictions | qa_outputs",
    tiny=TinyModel(
        model_type="deberta-v2",
        config={
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
            "type_vocab_size": 0,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_buckets": 8,
            "position_biased_input": False,
        },
        auto_classes=("AutoModelForSequenceClassification", "AutoModelForMaskedLM"),
    ),
)


@hookimpl
def refarch_backbones() -> list[FamilySpec]:
    """The family of this plugin."""
    return [DEBERTA_V2]
