"""The spec of adaption prompts (Zhang et al. 2023, arXiv 2303.16199). See :mod:`refarch_adaption_prompt.function`."""

from refarch import Gate, ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2303.16199")

ADAPTION_PROMPT = TechniqueSpec(
    name="adaption-prompt",
    summary="Zero-init gated attention over learned prompts",
    reference="Zhang et al. 2023, arXiv 2303.16199",
    modules=(
        ModuleSpec(
            name="prompt",
            workspace=("attention.key_value",),
            insertion="parallel",
            integration="gated addition",
            gate=Gate(by="learned", activation="identity", initial=0.0),
            input_type="data",
            adapted="addition",
            intra="none",
            inter="dynamic",
            form="tokens",
            projected=True,
            function="refarch_adaption_prompt.function:AdaptionPrompt",
            provenance={"workspace": PAPER, "integration": PAPER, "gate": PAPER, "projected": PAPER},
        ),
    ),
    options=(
        Option(name="length", type="integer", default=10, minimum=1, size=True, help="K, the number of prompt tokens"),
    ),
    training={"learning_rate": 9e-3},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [ADAPTION_PROMPT]
