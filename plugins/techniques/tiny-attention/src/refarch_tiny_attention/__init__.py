"""The spec of the tiny-attention adapter (Zhao et al. 2022, arXiv 2211.01979).

Formula and defaults: :mod:`refarch_tiny_attention.function`.
"""

from typing import Any

from refarch import ModuleSpec, Option, TechniqueSpec, hookimpl

PAPER = {"source": "paper", "reference": "arXiv 2211.01979, abstract"}


def _module(insertion: str, function: str = "TinyAttention", **fields: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "workspace": ("attention",),
        "insertion": insertion,
        "integration": "direct addition",
        "input_type": "hidden",
        "adapted": "addition",
        "intra": "dense",
        "inter": "dynamic",
        "form": "attention",
        "function": f"refarch_tiny_attention.function:{function}",
        "identity_at_start": False,
        "provenance": {"inter": PAPER, "form": PAPER},
        **fields,
    }


SEQUENTIAL = _module("sequential")
PARALLEL = _module("parallel")
AVERAGED = _module("sequential", "AveragedHeads", train_only=("heads",))

TINY_ATTENTION = TechniqueSpec(
    name="tiny-attention",
    summary="Attention with very narrow heads after or beside every layer's self-attention",
    reference="Zhao et al. 2022, arXiv 2211.01979",
    modules=(ModuleSpec.parse(SEQUENTIAL),),
    options=(
        Option(name="head_dim", type="integer", default=1, minimum=1, help="D, the width of a head"),
        Option(name="heads", type="integer", default=1, minimum=1, size=True, help="H, the number of heads"),
        Option(name="norm", type="boolean", default=True, help="a layer norm of its own on what it reads"),
        Option(name="bias", type="boolean", default=True, help="biases of the four maps"),
        Option(
            name="start",
            type="number",
            default=0.01,
            minimum=0,
            help="what the output map's random start is multiplied by; with 0 the base's output is unchanged at first",
        ),
        Option(name="dropout", type="number", default=0.1, minimum=0, maximum=0.99, help="on the attention weights"),
    ),
    presets={
        "sequential": {"modules": [SEQUENTIAL]},
        "parallel": {"modules": [PARALLEL]},
        "averaged": {"modules": [AVERAGED], "heads": 4},
    },
    training={"learning_rate": 1e-3},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [TINY_ATTENTION]
