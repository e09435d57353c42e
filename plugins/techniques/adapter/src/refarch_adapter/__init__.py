"""The spec of bottleneck adapters. See :mod:`refarch_adapter.function` for the formula."""

from typing import Any

from refarch import ModuleSpec, Option, TechniqueSpec, hookimpl


def _module(workspace: tuple[str, ...], insertion: str, integration: str) -> dict[str, Any]:
    return {
        "name": "bottleneck",
        "workspace": workspace,
        "insertion": insertion,
        "integration": integration,
        "input_type": "hidden",
        "adapted": "addition",
        "intra": "dense",
        "inter": "fixed",
        "form": "mlp",
        "function": "refarch_adapter.function:Bottleneck",
    }


HOULSBY = _module(("attention.output", "ffn.down"), "sequential", "direct addition")
PFEIFFER = _module(("ffn.down",), "sequential", "direct addition")
PARALLEL = _module(("ffn",), "parallel", "scaled addition")

ADAPTER = TechniqueSpec(
    name="adapter",
    summary="A bottleneck network after or beside a sublayer",
    reference="Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al. 2020, 2005.00247; He et al. 2022, 2110.04366",
    modules=(ModuleSpec.parse(HOULSBY),),
    options=(
        Option(name="bottleneck", type="integer", default=64, minimum=1, size=True, help="m, the inner width"),
        Option(
            name="activation", type="string", default="gelu", choices=("gelu", "relu", "silu", "tanh"), help="inner"
        ),
        Option(name="scale", type="number", default=1.0, help="s of the parallel form's scaled addition"),
        Option(name="dropout", type="number", default=0.0, minimum=0, maximum=0.99, help="on the inner units"),
    ),
    presets={
        "houlsby": {"modules": [HOULSBY]},
        "pfeiffer": {"modules": [PFEIFFER], "bottleneck": 48, "activation": "relu"},
        "parallel": {"modules": [PARALLEL], "activation": "relu", "scale": 4.0},
    },
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [ADAPTER]
