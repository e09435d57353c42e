"""Hook specifications, the loader and the registry. Nothing here imports torch.

Names are resolved when they are used, so that reading metadata (``refarch list-plugins``) imports neither pydantic
nor pluggy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refarch._lazy import lazy

if TYPE_CHECKING:
    from refarch.plugins.command import CommandSpec
    from refarch.plugins.command_group import command_group
    from refarch.plugins.hooks import hookimpl, hookspec
    from refarch.plugins.registry import Registry, default_registry, forget_plugins, resolve
    from refarch.plugins.scan import GROUPS, Found, Settings, scan

_NAMES = {
    "CommandSpec": "refarch.plugins.command",
    "command_group": "refarch.plugins.command_group",
    "hookimpl": "refarch.plugins.hooks",
    "hookspec": "refarch.plugins.hooks",
    "Registry": "refarch.plugins.registry",
    "default_registry": "refarch.plugins.registry",
    "forget_plugins": "refarch.plugins.registry",
    "resolve": "refarch.plugins.registry",
    "GROUPS": "refarch.plugins.scan",
    "Found": "refarch.plugins.scan",
    "Settings": "refarch.plugins.scan",
    "scan": "refarch.plugins.scan",
}

__all__ = [
    "GROUPS",
    "CommandSpec",
    "Found",
    "Registry",
    "Settings",
    "command_group",
    "default_registry",
    "forget_plugins",
    "hookimpl",
    "hookspec",
    "resolve",
    "scan",
]


def __getattr__(name: str) -> Any:
    return lazy(__name__, name, _NAMES)
