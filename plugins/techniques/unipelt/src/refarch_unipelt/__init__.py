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

from refarch_adapter import ADAPTER
from refarch_lora import LORA
from refarch_prefix_tuning import PREFIX_TUNING

from refarch import Gate, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2110.07577")
CODE = Provenance(source="paper", reference="the code of arXiv 2110.07577")


GATED: dict[str, Any] = {
    "inter": "dynamic",
    "gate": Gate(by="example"),
    "provenance": {"workspace": PAPER, "gate": CODE, "inter": PAPER},
}

UNIPELT = TechniqueSpec(
    name="unipelt",
    summary="A prefix, low-rank updates and an adapter, each under a gate that the example opens",
    reference="Mao et al. 2022, arXiv 2110.07577",
    modules=(
        PREFIX_TUNING.module("prefix", arguments={"length": "$length", "hidden": "$hidden"}, **GATED),
        LORA.module(
            "low_rank",
            integration="gated addition",
            arguments={"rank": "$rank", "alpha": "$rank", "dropout": "$dropout"},
            learning_rate_scale={},
            **GATED,
        ),
        ADAPTER.module(
            "bottleneck",
            preset="pfeiffer",
            integration="gated addition",
            arguments={"bottleneck": "$bottleneck", "dropout": "$dropout"},
            **GATED,
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
