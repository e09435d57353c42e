"""The spec of LoReFT (Wu et al. 2024, arXiv 2404.03592). See :mod:`refarch_loreft.function` for the formula."""

from typing import Any

from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2404.03592")


def _module(name: str, **positions: str) -> dict[str, Any]:
    return {
        "name": name,
        "workspace": ("layer",),
        "insertion": "sequential",
        "integration": "direct addition",
        "input_type": "hidden",
        "adapted": "addition",
        "intra": "dense",
        "inter": "fixed",
        "form": "mlp",  # affine: b keeps it from being linear
        "function": "refarch_loreft.function:LoReFT",
        "arguments": {"rank": "$rank", "dropout": "$dropout"},
        "positions": positions,
        "identity_at_start": False,
        "provenance": {key: PAPER.model_dump() for key in ("workspace", "integration", "positions")},
    }


LOREFT = TechniqueSpec(
    name="loreft",
    summary="Edits of hidden states in a learned low-rank subspace, at a few tokens",
    reference="Wu et al. 2024, arXiv 2404.03592",
    modules=(ModuleSpec.parse(_module("subspace", first="$first", last="$last")),),
    options=(
        Option(name="rank", type="integer", default=8, minimum=1, size=True, help="r, the dimension of the subspace"),
        Option(name="first", type="integer", default=1, minimum=0, help="number of tokens at the beginning"),
        Option(name="last", type="integer", default=0, minimum=0, help="number of tokens at the end"),
        Option(name="dropout", type="number", default=0.0, minimum=0, maximum=0.99, help="on the edited hidden states"),
    ),
    presets={
        "untied": {"modules": [_module("begin", first="$first"), _module("end", last="$last")], "last": 1},
    },
    training={"learning_rate": 9e-4},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [LOREFT]
