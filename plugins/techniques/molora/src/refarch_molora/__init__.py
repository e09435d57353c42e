"""The specs of MoLoRA and MoV (Zadouri et al. 2023, arXiv 2309.05444): LoRA or (IA)3 experts, softly merged.

Equation    MoLoRA: W0 x + (alpha / r) sum_e s_e B_e A_e x;  MoV: y * sum_e s_e l_e;  s = softmax(W_g x), at each token
Symbols     A, B, l as in ``refarch_lora.function`` and ``refarch_ia3.function``; W_g is the engine's router
Slots       MoLoRA: every projection of attention and feed-forward; MoV: those of (IA)3
Start       nothing changes: B = 0, and l = 1 with weights that sum to one; W_g from N(0, 0.02^2)
Parameters  a slot: MoLoRA n r (d_in + d_out) + n d_in; MoV n d + n d

Slots and defaults are those of the authors' code (github.com/for-ai/parameter-efficient-moe). There MoV's routers of
keys and values work head by head; here one reads the whole key or value.
"""

from typing import Any

from refarch_ia3 import IA3
from refarch_lora import LORA

from refarch import ModuleSpec, Option, Provenance, Router, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2309.05444")
CODE = Provenance(source="paper", reference="the code of arXiv 2309.05444")
REFERENCE = "Zadouri et al. 2023, arXiv 2309.05444"

EXPERTS = LORA.module(
    "low_rank",
    workspace=(
        "attention.query",
        "attention.key",
        "attention.value",
        "attention.output",
        "cross_attention.query?",
        "cross_attention.key?",
        "cross_attention.value?",
        "cross_attention.output?",
        "ffn.up",
        "ffn.down",
    ),
    inter="dynamic",
    arguments={"rank": "$rank", "alpha": "$alpha", "dropout": "$dropout"},
    learning_rate_scale={},
    routing="soft",
    router=Router(experts="$experts"),
    provenance={"workspace": CODE, "integration": PAPER, "routing": PAPER, "router": PAPER},
)
VECTORS = IA3.module(
    "factors",
    inter="dynamic",
    routing="soft",
    router=Router(experts="$experts"),
    provenance={"workspace": PAPER, "integration": PAPER, "routing": PAPER, "router": PAPER},
)


def _hard(module: ModuleSpec, **router: Any) -> list[dict[str, Any]]:
    """The modules of a preset: the same experts, of which a few act on each token."""
    return [module.changed(routing="hard", router={"experts": "$experts", "top": 2, **router})]


def _experts(number: int) -> Option:
    return Option(name="experts", type="integer", default=number, minimum=2, help="n, the number of experts")


MOLORA = TechniqueSpec(
    name="molora",
    summary="Several low-rank updates, mixed at each token by a router",
    reference=REFERENCE,
    modules=(EXPERTS,),
    options=(
        _experts(10),
        Option(name="rank", type="integer", default=4, minimum=1, size=True, help="r, the rank of each expert"),
        Option(name="alpha", type="number", default=16.0, help="each expert is scaled by alpha / r"),
        Option(name="dropout", type="number", default=0.0, minimum=0, maximum=0.99, help="on each expert's input"),
    ),
    presets={"top-2": {"modules": _hard(EXPERTS, renormalise=False)}},
)
MOV = TechniqueSpec(
    name="mov",
    summary="Several vectors of factors at (IA)3's slots, mixed at each token by a router",
    reference=REFERENCE,
    modules=(VECTORS,),
    options=(_experts(30),),
    presets={"top-2": {"modules": _hard(VECTORS)}},
    training={"learning_rate": 3e-3},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The techniques of this plugin."""
    return [MOLORA, MOV]
