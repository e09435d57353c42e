"""Hook specifications, the loader and the registry. Nothing here imports torch.

Names are resolved when they are used, so that reading metadata (``refarch list-plugins``) imports neither pydantic
nor pluggy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refarch._lazy import lazy, names

if TYPE_CHECKING:
    from refarch.plugins.command import CommandSpec as CommandSpec
    from refarch.plugins.discovery import GROUPS as GROUPS, Found as Found, Settings as Settings, scan as scan
    from refarch.plugins.hooks import (
        HOOK_SPECIFICATIONS as HOOK_SPECIFICATIONS,
        hookimpl as hookimpl,
        hookspec as hookspec,
    )
    from refarch.plugins.lookup import (
        NamedTechnique as NamedTechnique,
        ResolvedPipeline as ResolvedPipeline,
        configured as configured,
        locate as locate,
        look_up as look_up,
        resolve_pipeline as resolve_pipeline,
    )
    from refarch.plugins.registry import (
        Registry as Registry,
        default_registry as default_registry,
        forget_plugins as forget_plugins,
        resolve as resolve,
    )
    from refarch.plugins.subcommands import command_group as command_group

_FROM = {
    "refarch.plugins.command": "CommandSpec",
    "refarch.plugins.subcommands": "command_group",
    "refarch.plugins.hooks": "HOOK_SPECIFICATIONS hookimpl hookspec",
    "refarch.plugins.lookup": "NamedTechnique ResolvedPipeline configured locate look_up resolve_pipeline",
    "refarch.plugins.registry": "Registry default_registry forget_plugins resolve",
    "refarch.plugins.discovery": "GROUPS Found Settings scan",
}
__all__ = names(_FROM)  # pyright: ignore[reportUnsupportedDunderAll]


if not TYPE_CHECKING:  # a type checker would take any name from a module with __getattr__

    def __getattr__(name: str) -> Any:
        return lazy(__name__, name, _FROM)
