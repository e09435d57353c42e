"""Find installed plugins by their metadata alone. Imports nothing heavy: ``refarch list-plugins`` lives on this."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Literal, NamedTuple

Kind = Literal["technique", "backbone", "task", "command", "observer"]
GROUPS: dict[Kind, str] = {
    "technique": "refarch.technique",
    "backbone": "refarch.backbone",
    "task": "refarch.task",
    "command": "refarch.command",
    "observer": "refarch.observer",
}
"""The entry-point group of each kind of plugin."""

Status = Literal["ok", "CONFLICT", "blocked", "error", "older contract", "newer contract"]


class Found(NamedTuple):
    """A plugin as its distribution's metadata announces it."""

    name: str
    kind: Kind
    target: str
    """What is imported: ``package`` or ``package:attribute``."""
    distribution: str
    version: str
    summary: str
    status: Status = "ok"
    problem: str = ""


class Settings(NamedTuple):
    """The environment's say in which plugins are used."""

    allow: tuple[str, ...] = ()
    block: tuple[str, ...] = ()
    strict: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read ``REFARCH_PLUGINS``, ``REFARCH_BLOCK`` (comma-separated names or patterns) and ``REFARCH_STRICT``."""
        env = os.environ if environment is None else environment
        return cls(
            _patterns(env.get("REFARCH_PLUGINS", "")),
            _patterns(env.get("REFARCH_BLOCK", "")),
            env.get("REFARCH_STRICT", "").lower() in ("1", "true", "yes", "on"),
        )

    def refuses(self, found: Found) -> str:
        """Why a plugin is not used, or an empty string."""
        if _matches(found, self.block):
            return "blocked by REFARCH_BLOCK"
        if self.allow and not _matches(found, self.allow):
            return "not in REFARCH_PLUGINS"
        return ""


def _patterns(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _matches(found: Found, patterns: Iterable[str]) -> bool:
    names = (found.name, found.distribution, f"{found.kind}:{found.name}")
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)


def scan(settings: Settings | None = None) -> list[Found]:
    """All announced plugins, sorted by kind and name. Two of one kind and name are both marked as CONFLICT."""
    settings = settings or Settings.from_environment()
    found: list[Found] = []
    kinds = {group: kind for kind, group in GROUPS.items()}
    seen: set[str] = set()
    for distribution in metadata.distributions():
        # An editable install and its build folder can both be on the path: the first one wins, as it does for imports.
        path_name = str(getattr(distribution, "_path", ""))
        entry_points = [point for point in distribution.entry_points if point.group in kinds]
        if not entry_points or path_name in seen:
            continue
        name = distribution.metadata["Name"] or "?"
        if name in seen:
            continue
        seen.update((path_name, name))
        summary = distribution.metadata["Summary"] or ""
        for point in entry_points:
            found.append(Found(point.name, kinds[point.group], point.value, name, distribution.version, summary))
    order = {kind: position for position, kind in enumerate(GROUPS)}
    found.sort(key=lambda item: (order[item.kind], item.name, item.distribution))
    return [_judge(item, found, settings) for item in found]


def _judge(item: Found, found: list[Found], settings: Settings) -> Found:
    reason = settings.refuses(item)
    if reason:
        return item._replace(status="blocked", problem=reason)
    rivals = [
        other.distribution
        for other in found
        if (other.kind, other.name) == (item.kind, item.name) and other != item and not settings.refuses(other)
    ]
    if rivals:
        return item._replace(status="CONFLICT", problem=f"{', '.join(rivals)} provides this name too")
    return item
