"""The spec of P-tuning (Liu et al. 2021, arXiv 2103.10385). See :mod:`refarch_p_tuning.function` for the formula."""

from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2103.10385v1")

P_TUNING = TechniqueSpec(
    name="p-tuning",
    summary="Tokens before the embedded input, made by an encoder while training",
    reference="Liu et al. 2021, arXiv 2103.10385",
    modules=(
        ModuleSpec(
            name="prompt",
            workspace=("inputs",),
            insertion="parallel",
            integration="concatenation",
            input_type="data",
            adapted="addition",
            intra="none",
            inter="dynamic",
            form="tokens",
            function="refarch_p_tuning.function:EncodedPrompt",
            train_only=("table", "lstm", "mlp"),
            identity_at_start=False,
            provenance={"workspace": PAPER, "integration": PAPER, "train_only": PAPER},
        ),
    ),
    options=(
        Option(name="length", type="integer", default=20, minimum=1, size=True, help="l, the number of tokens"),
        Option(name="encoder", type="string", default="mlp", choices=("mlp", "lstm"), help="what makes the tokens"),
        Option(name="hidden", type="integer", default=128, minimum=1, help="width of the encoder"),
    ),
    training={"learning_rate": 1e-2},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [P_TUNING]
