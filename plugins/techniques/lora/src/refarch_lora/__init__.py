"""The spec of LoRA (Hu et al. 2021, arXiv 2106.09685). See :mod:`refarch_lora.function` for the formula."""

from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2106.09685")

LOW_RANK = ModuleSpec(
    name="low_rank",
    workspace=("attention.query", "attention.value"),
    insertion="parallel",
    integration="scaled addition",
    input_type="hidden",
    adapted="reparameterisation",
    intra="dense",
    inter="fixed",
    form="linear",
    function="refarch_lora.function:LoRA",
    learning_rate_scale={"up": "$learning_rate_ratio"},
    provenance={"workspace": PAPER, "integration": PAPER, "adapted": PAPER},
)


FROM_WEIGHT = [LOW_RANK.changed(function="refarch_lora.function:FromWeight", frozen=("down_0", "up_0"))]

LORA = TechniqueSpec(
    name="lora",
    summary="Low-rank updates of weight matrices",
    reference="Hu et al. 2021, arXiv 2106.09685",
    modules=(LOW_RANK,),
    options=(
        Option(name="rank", type="integer", default=8, minimum=1, size=True, help="r, the rank of the update"),
        Option(name="alpha", type="number", default=16.0, help="the update is scaled by alpha / r"),
        Option(name="dropout", type="number", default=0.0, minimum=0, maximum=0.99, help="on the module's input"),
        Option(
            name="rank_stabilised",
            type="boolean",
            default=False,
            help="scale by alpha / sqrt(r) instead (rsLoRA, arXiv 2312.03732)",
        ),
        Option(
            name="init",
            type="string",
            default="kaiming",
            choices=("kaiming", "gaussian", "orthogonal", "pissa", "olora"),
            help="of A; B starts at zero. The last two are those of the presets of their names",
        ),
        Option(
            name="learning_rate_ratio",
            type="number",
            default=1.0,
            exclusive_minimum=0,
            help="learning rate of B divided by that of A (LoRA+, arXiv 2402.12354)",
        ),
    ),
    presets={
        "rslora": {"rank_stabilised": True},
        "pissa": {"modules": FROM_WEIGHT, "init": "pissa"},
        "olora": {"modules": FROM_WEIGHT, "init": "olora"},
        "lora-fa": {"modules": [LOW_RANK.changed(frozen=("down",))]},
        "lora+": {"learning_rate_ratio": 16.0},
    },
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [LORA]
