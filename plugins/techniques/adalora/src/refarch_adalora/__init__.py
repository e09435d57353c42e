"""The spec of AdaLoRA (Zhang et al. 2023, arXiv 2303.10512). See :mod:`refarch_adalora.function` for the formula."""

from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2303.10512")

ADALORA = TechniqueSpec(
    name="adalora",
    summary="Low-rank updates whose ranks follow from importance, under one budget for the model",
    reference="Zhang et al. 2023, arXiv 2303.10512",
    modules=(
        ModuleSpec(
            name="triplets",
            workspace=(
                "attention.query",
                "attention.key",
                "attention.value",
                "attention.output",
                "ffn.up",
                "ffn.gate?",
                "ffn.down",
            ),
            insertion="parallel",
            integration="scaled addition",
            input_type="hidden",
            adapted="reparameterisation",
            intra="dense",
            inter="fixed",
            form="linear",
            function="refarch_adalora.function:Triplets",
            schedule="refarch_adalora.schedule:Budget",
            train_only=("importance", "kept"),
            provenance={"workspace": PAPER, "adapted": PAPER, "schedule": PAPER},
        ),
    ),
    options=(
        Option(name="rank", type="integer", default=12, minimum=1, size=True, help="r, every matrix's rank at first"),
        Option(
            name="target_rank",
            type="integer",
            minimum=1,
            help="mean rank of a matrix at the end; two thirds of r when left out",
        ),
        Option(name="alpha", type="number", default=8.0, help="the update is scaled by alpha / r"),
        Option(name="dropout", type="number", default=0.0, minimum=0, maximum=0.99, help="on the module's input"),
        Option(
            name="orthogonality",
            type="number",
            default=0.5,
            minimum=0,
            help="weight of the term that keeps singular vectors orthogonal",
        ),
        Option(name="tinit", type="integer", default=0, minimum=0, help="steps before ranks begin to fall"),
        Option(name="tfinal", type="integer", default=0, minimum=0, help="steps at the end, after ranks have fallen"),
        Option(name="delta_t", type="integer", default=1, minimum=1, help="steps from one allocation to the next"),
        Option(
            name="beta1",
            type="number",
            default=0.85,
            exclusive_minimum=0,
            maximum=0.999,
            help="how much of the sensitivity so far is kept at a step",
        ),
        Option(
            name="beta2",
            type="number",
            default=0.85,
            exclusive_minimum=0,
            maximum=0.999,
            help="how much of its uncertainty so far is kept at a step",
        ),
    ),
    training={"learning_rate": 1e-2},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [ADALORA]
