"""The spec of UniPELT (Mao et al. 2022, arXiv 2110.07577), a union of three techniques by composition, each gated.

Equation    [g P_k; K], [g P_v; V] at attention;  W0 x + g B A x at query and value;  h + g W_up f(W_down h) after
            feed-forward;  every g = mean over an example's tokens of sigmoid(w . x + b), from what its module reads
Symbols     as in ``refarch_prefix_tuning.function``, ``refarch_lora.function`` and ``refarch_adapter.function``;
            the gates are the engine's
Slots       the keys and values of self-attention; query and value; ffn.down
Start       LoRA and the adapter change nothing; the prefix is random; w = 0 and b = 0, so each g = 1/2
Parameters  a layer: 2 l d_kv, once folded, + r (2 d + d + d_kv) + 2 m d + m + d + 4 (d + 1) for the gates

What the gates read, and the defaults, are those of the authors' code (github.com/morningmoni/UniPELT). LoRA's gate
stands in the place of alpha / r there, so alpha = r here. Its means count padding; the engine's do not.
"""

from typing import Any

from refarch import Gate, ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2110.07577")
CODE = Provenance(source="paper", reference="the code of arXiv 2110.07577")


def _gated(**fields: Any) -> ModuleSpec:
    own = {"workspace": PAPER, "gate": CODE, "inter": PAPER}
    return ModuleSpec(inter="dynamic", gate=Gate(by="example"), provenance=own, **fields)


UNIPELT = TechniqueSpec(
    name="unipelt",
    summary="A prefix, low-rank updates and an adapter, each under a gate that the example opens",
    reference="Mao et al. 2022, arXiv 2110.07577",
    modules=(
        _gated(
            name="prefix",
            workspace=("attention.key_value",),
            insertion="parallel",
            integration="concatenation",
            input_type="data",
            adapted="addition",
            intra="none",
            form="tokens",
            function="refarch_prefix_tuning.function:Prefix",
            arguments={"length": "$length", "hidden": "$hidden"},
            sharing="across model",
            shared=("trunk.table", "trunk.hidden.weight", "trunk.hidden.bias"),
            train_only=("trunk", "out"),
            identity_at_start=False,
        ),
        _gated(
            name="low_rank",
            workspace=("attention.query", "attention.value"),
            insertion="parallel",
            integration="gated addition",
            input_type="hidden",
            adapted="reparameterisation",
            intra="dense",
            form="linear",
            function="refarch_lora.function:LoRA",
            arguments={
                "rank": "$rank",
                "alpha": "$rank",
                "dropout": "$dropout",
                "rank_stabilised": False,
                "init": "kaiming",
                "learning_rate_ratio": 1.0,
            },
        ),
        _gated(
            name="bottleneck",
            workspace=("ffn.down",),
            insertion="sequential",
            integration="gated addition",
            input_type="hidden",
            adapted="addition",
            intra="dense",
            form="mlp",
            function="refarch_adapter.function:Bottleneck",
            arguments={"bottleneck": "$bottleneck", "activation": "relu", "scale": 1.0, "dropout": "$dropout"},
        ),
    ),
    options=(
        Option(name="length", type="integer", default=10, minimum=1, help="l, the number of keys and values"),
        Option(name="hidden", type="integer", default=512, minimum=1, help="width of the network behind the prefix"),
        Option(name="rank", type="integer", default=8, minimum=1, help="r, the rank of the updates"),
        Option(name="bottleneck", type="integer", default=48, minimum=1, size=True, help="m, the adapter's width"),
        Option(
            name="dropout",
            type="number",
            default=0.0,
            minimum=0,
            maximum=0.99,
            help="on what the low-rank updates read, and on the adapter's inner units",
        ),
    ),
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [UNIPELT]
