"""Checkpoints of other libraries: Hugging Face peft's, both ways, and the adapters library's, read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refarch import CommandSpec, hookimpl

if TYPE_CHECKING:
    from refarch_interchange.hub_adapters.reading import load_adapters
    from refarch_interchange.notes import Difference
    from refarch_interchange.reading import load_peft
    from refarch_interchange.writing import save_peft

__all__ = ["Difference", "load_adapters", "load_peft", "save_peft"]

CONVERT = CommandSpec(
    name="convert",
    summary="Convert checkpoints from and to Hugging Face peft, and from the adapters library.",
    command="refarch_interchange.command:command",
)
_NAMES = {
    "Difference": "notes",
    "load_adapters": "hub_adapters.reading",
    "load_peft": "reading",
    "save_peft": "writing",
}


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)


@hookimpl
def refarch_commands() -> list[CommandSpec]:
    """The command of this plugin."""
    return [CONVERT]
