"""``refarch inspect``: the slots of a transformers model, its layer as a diagram, a table proposed by structure."""

from refarch import CommandSpec, hookimpl

INSPECT = CommandSpec(
    name="inspect",
    summary="The slots of a model, its layer as a diagram, a proposed table where none is installed.",
    command="refarch_inspect.command:command",
)


@hookimpl
def refarch_commands() -> list[CommandSpec]:
    """The command of this plugin."""
    return [INSPECT]
