"""The spec of prefix tuning (Li & Liang 2021, arXiv 2101.00190); formula: :mod:`refarch_prefix_tuning.function`."""

from refarch import ModuleSpec, Option, Provenance, TechniqueSpec, hookimpl

PAPER = Provenance(source="paper", reference="arXiv 2101.00190")

PREFIX = ModuleSpec(
    name="prefix",
    workspace=("attention.key_value",),
    insertion="parallel",
    integration="concatenation",
    input_type="data",
    adapted="addition",
    intra="none",
    inter="dynamic",
    form="tokens",
    function="refarch_prefix_tuning.function:Prefix",
    sharing="across model",
    shared=("trunk.table", "trunk.hidden.weight", "trunk.hidden.bias"),
    train_only=("trunk", "out"),
    identity_at_start=False,
    provenance={"workspace": PAPER, "integration": PAPER, "sharing": PAPER},
)

PREFIX_TUNING = TechniqueSpec(
    name="prefix-tuning",
    summary="Free keys and values before those of every layer",
    reference="Li & Liang 2021, arXiv 2101.00190",
    modules=(PREFIX,),
    options=(
        Option(
            name="length", type="integer", default=20, minimum=1, size=True, help="l, the number of keys and values"
        ),
        Option(
            name="hidden", type="integer", default=512, minimum=1, help="width of the network that makes the prefix"
        ),
    ),
    presets={"counted": {"modules": [PREFIX.changed(counted=True)]}},
    training={"learning_rate": 3e-4},
)


@hookimpl
def refarch_techniques() -> list[TechniqueSpec]:
    """The technique of this plugin."""
    return [PREFIX_TUNING]
