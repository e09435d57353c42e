"""Evaluate adapted models by EleutherAI's lm-evaluation-harness."""

from refarch import CommandSpec, hookimpl

EVALUATE = CommandSpec(
    name="evaluate",
    summary="Evaluate what a run has trained on tasks of EleutherAI's lm-evaluation-harness.",
    command="refarch_lm_eval.command:command",
)


@hookimpl
def refarch_commands() -> list[CommandSpec]:
    """The command of this plugin."""
    return [EVALUATE]
