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
_KINDS = {group: kind for kind, group in GROUPS.items()}

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
    seen: set[str] = set()
    for distribution in metadata.distributions():
        announced = _announced(distribution)
        if not announced:
            continue
        name, version, summary = _header(distribution)
        # An editable install and its build folder can both be on the path: the first one wins, as it does for imports.
        same = name.lower().replace("_", "-").replace(".", "-")
        if same not in seen:
            seen.add(same)
            found.extend(Found(item, kind, target, name, version, summary) for kind, item, target in announced)
    order = {kind: position for position, kind in enumerate(GROUPS)}
    found.sort(key=lambda item: (order[item.kind], item.name, item.distribution))
    return _judged(found, settings)


def _announced(distribution: metadata.Distribution) -> list[tuple[Kind, str, str]]:
    """Kind, name and target of a distribution's plugins.

    Read from the text itself: most distributions are passed over without being parsed, and one malformed line of a
    plugin's metadata becomes that plugin's problem when it is loaded, not everybody's.
    """
    try:
        text = distribution.read_text("entry_points.txt") or ""
    except (OSError, ValueError):  # not text: no plugin of refarch's
        return []
    if "refarch." not in text:
        return []
    result: list[tuple[Kind, str, str]] = []
    kind: Kind | None = None
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            kind = _KINDS.get(line.strip("[] "))
        elif kind and line and line[0] not in "#;":
            name, _, target = line.partition("=")
            result.append((kind, name.strip(), target.partition("[")[0].strip()))
    return result


def _header(distribution: metadata.Distribution) -> tuple[str, str, str]:
    """Name, version and summary. The fields stand before the first empty line; the rest, a readme, is not parsed."""
    try:
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    except (OSError, ValueError):
        text = ""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            break
        field, _, value = line.partition(":")
        fields.setdefault(field.lower(), value.strip())
    return fields.get("name") or "?", fields.get("version") or "?", fields.get("summary") or ""


def _judged(found: list[Found], settings: Settings) -> list[Found]:
    reasons = [settings.refuses(item) for item in found]
    rivals: dict[tuple[Kind, str], list[str]] = {}
    for item, reason in zip(found, reasons, strict=True):
        if not reason:
            rivals.setdefault((item.kind, item.name), []).append(item.distribution)
    judged = []
    for item, reason in zip(found, reasons, strict=True):
        providers = rivals.get((item.kind, item.name), [])
        if reason:
            item = item._replace(status="blocked", problem=reason)
        elif len(providers) > 1:
            others = [name for name in providers if name != item.distribution] or [item.distribution]
            item = item._replace(status="CONFLICT", problem=f"{', '.join(others)} provides this name too")
        judged.append(item)
    return judged
