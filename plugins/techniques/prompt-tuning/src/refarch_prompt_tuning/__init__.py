"""The spec of prompt tuning (Lester et al. 2021, arXiv 2104.08691); formula: :mod:`refarch_prompt_tuning.function`."""

from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2104.08691")

PROMPT_TUNING = TechniqueSpec(
    name="prompt-tuning",
    summary="Free tokens before the embedded input",
    reference="Lester et al. 2021, arXiv 2104.08691",
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
            function="refarch_prompt_tuning.function:Prompt",
            identity_at_start=False,
            provenance={"workspace": PAPER, "integration": PAPER},
        ),
    ),
    options=(
        Option(name="length", type="integer", default=20, minimum=1, size=True, help="l, the number of tokens"),
        Option(
            name="init",
            type="string",
            default="vocabulary",
            choices=("vocabulary", "uniform"),
            help="embeddings of random words of the vocabulary, or uniform in [-0.5, 0.5]",
        ),
    ),
    training={"learning_rate": 1e-2},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [PROMPT_TUNING]
