"""A library of finetuned modules: keep, find, check, share, move to other backbones, and use them.

In Python: ``refarch_library.store.Library`` and ``refarch_library.predict.predictor.Predictor``.
"""

from refarch import CommandSpec, hookimpl

LIBRARY = CommandSpec(
    name="library",
    summary="A library of finetuned modules: add, find, check, share, and port them to other backbones.",
    command="refarch_library.command:command",
)
PREDICT = CommandSpec(
    name="predict",
    summary="Answer new texts with trained modules, several of them on one backbone.",
    command="refarch_library.predict.command:command",
)


@hookimpl
def refarch_commands() -> list[CommandSpec]:
    """The commands of this plugin."""
    return [LIBRARY, PREDICT]
