"""The spec of Compacter (Mahabadi et al. 2021, arXiv 2106.04647); formula: :mod:`refarch_compacter.function`."""

from typing import Any

from refarch import ModuleSpec, Option, TechniqueSpec, hookimpl

PAPER = {"source": "paper", "reference": "arXiv 2106.04647, section 3"}


def _module(*workspace: str) -> dict[str, Any]:
    return {
        "name": "compacter",
        "workspace": workspace,
        "insertion": "sequential",
        "integration": "direct addition",
        "input_type": "hidden",
        "adapted": "addition",
        "intra": "structured",
        "inter": "fixed",
        "form": "mlp",
        "function": "refarch_compacter.function:Compacter",
        "sharing": "across model",
        "shared": ("rule",),
        "provenance": {"workspace": PAPER, "intra": PAPER, "sharing": PAPER},
    }


COMPACTER = TechniqueSpec(
    name="compacter",
    summary="Adapters of Kronecker products and low-rank factors",
    reference="Mahabadi et al. 2021, arXiv 2106.04647",
    modules=(ModuleSpec.parse(_module("attention.output", "ffn.down")),),
    options=(
        Option(name="bottleneck", type="integer", default=24, minimum=1, size=True, help="m, the inner width"),
        Option(name="kronecker", type="integer", default=4, minimum=1, help="N, the number and size of the matrices A"),
        Option(name="rank", type="integer", default=1, minimum=1, help="r', the rank of the matrices B"),
        Option(
            name="activation", type="string", default="gelu", choices=("gelu", "relu", "silu", "tanh"), help="inner"
        ),
    ),
    presets={"plusplus": {"modules": [_module("ffn.down")]}},
    training={"learning_rate": 3e-3},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [COMPACTER]
