"""Compare techniques: what they are, what they cost, how well they do, and how these go together."""

from refarch import CommandSpec, hookimpl

ADVISE = CommandSpec(
    name="advise",
    summary="Which techniques suit a task, a backbone and limits, with the reasons from structure and evidence.",
    command="refarch_compare.advise.command:command",
)
COMPARE = CommandSpec(
    name="compare",
    summary="Compare techniques: structure, studies, statistics, and how structure relates to results.",
    command="refarch_compare.command:command",
)
DIAGRAM = CommandSpec(
    name="diagram",
    summary="Draw a transformer layer with the modules of techniques in their slots, as SVG.",
    command="refarch_compare.diagram.command:command",
)
ESTIMATE = CommandSpec(
    name="estimate",
    summary="What a technique costs on a backbone before training: parameters, bytes, operations, memory.",
    command="refarch_compare.cost.command:command",
)


@hookimpl
def refarch_commands() -> list[CommandSpec]:
    """The commands of this plugin."""
    return [ADVISE, COMPARE, DIAGRAM, ESTIMATE]
