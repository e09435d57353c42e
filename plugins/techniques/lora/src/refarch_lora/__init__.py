"""The spec of LoRA (Hu et al. 2021, arXiv 2106.09685). See :mod:`refarch_lora.function` for the formula."""

from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2106.09685, section 4.1")

LORA = TechniqueSpec(
    name="lora",
    summary="Low-rank updates of weight matrices",
    reference="Hu et al. 2021, arXiv 2106.09685",
    modules=(
        ModuleSpec(
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
            provenance={"workspace": PAPER, "integration": PAPER, "adapted": PAPER},
        ),
    ),
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
            choices=("kaiming", "gaussian", "orthogonal"),
            help="of A; B starts at zero",
        ),
    ),
    presets={"rslora": {"rank_stabilised": True}},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [LORA]
