"""The spec of the mix-and-match adapter (He et al. 2022, arXiv 2110.04366), a union of two techniques by composition.

Equation    a prefix's gated addition at attention, and  F(x) + s W_up f(W_down x)  beside the feed-forward sublayer F
Symbols     as in ``refarch_prefix_tuning.function`` and ``refarch_adapter.function``
Slots       the keys and values of self-attention and, in a decoder, of cross-attention; ffn            (section 4.6)
Start       the adapter changes nothing; the prefix is random
Parameters  2 l d_kv an attention, once folded, and 2 m d + m + d a feed-forward sublayer
"""

from refarch_adapter import ADAPTER
from refarch_prefix_tuning import PREFIX_TUNING

from refarch import Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2110.04366")

MAM = TechniqueSpec(
    name="mam",
    summary="A prefix at attention and a scaled adapter parallel to the feed-forward sublayer",
    reference="He et al. 2022, arXiv 2110.04366",
    modules=(
        PREFIX_TUNING.module(
            "prefix",
            workspace=("attention.key_value", "cross_attention.key_value?"),
            arguments={"length": "$length", "hidden": "$hidden"},
            provenance={"workspace": PAPER, "integration": PAPER},
        ),
        ADAPTER.module(
            "bottleneck",
            preset="parallel",
            arguments={"bottleneck": "$bottleneck", "scale": "$scale", "dropout": "$dropout"},
            provenance={"workspace": PAPER, "insertion": PAPER, "integration": PAPER},
        ),
    ),
    options=(
        Option(name="length", type="integer", default=30, minimum=1, help="l, the number of keys and values"),
        Option(name="hidden", type="integer", default=512, minimum=1, help="width of the network behind the prefix"),
        Option(name="bottleneck", type="integer", default=512, minimum=1, size=True, help="m, the adapter's width"),
        Option(name="scale", type="number", default=4.0, help="s of the adapter's scaled addition"),
        Option(
            name="dropout", type="number", default=0.0, minimum=0, maximum=0.99, help="on the adapter's inner units"
        ),
    ),
    training={"learning_rate": 1e-4},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [MAM]
