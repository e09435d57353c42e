"""What ``adaptation.json`` holds, in today's format and in older ones. Plain data; knows no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from refarch.architecture import ConfiguredTechnique
from refarch.architecture.fingerprint import Fingerprint
from refarch.architecture.spec import Spec
from refarch.errors import CheckpointError


class Source(Spec):
    """The plugin that a technique came from; empty for an inline spec."""

    distribution: str = ""
    version: str = ""


FORMAT = 3
ADAPTATION_FILE = "adaptation.json"
JSON_LIMIT = 16 * 2**20
"""Bytes of ``adaptation.json``, and of a tensor file's header."""


class Described(Spec):
    """What ``adaptation.json`` holds, but for which file the tensors are in."""

    format: int = FORMAT
    name: str
    technique: ConfiguredTechnique
    source: Source
    family: str
    seed: int
    train_head: bool
    folded: bool
    """Whether the parts that only training needs were dropped."""
    base: Fingerprint
    auto_class: str = ""
    """The transformers auto class that loads the base as it was, with its head; empty if none does."""
    labels: dict[int, str] = {}
    """Of a head that tells labels apart: their names by their numbers."""
    versions: dict[str, str] = {}
    """The distributions that took part, as they were when it was saved: refarch, its plugins, torch, transformers."""
    slot_map: dict[str, str]
    """Address of each insertion to the path of the module in the base."""
    shapes: dict[str, tuple[int, ...]]

    def naming(self, tensors: str, sha256: str) -> Checkpoint:
        """The whole, with the tensor file's name and digest."""
        return Checkpoint(**dict(self), tensors=tensors, sha256=sha256)


class Checkpoint(Described):
    """What ``adaptation.json`` holds."""

    tensors: str
    """Name of the tensor file in the same folder."""
    sha256: str


def migrated(raw: dict[str, Any], folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What an ``adaptation.json`` of any format says, in today's, and in words what that changed.

    Raises:
        CheckpointError: it is of a newer format, or of none that there was.
    """
    given, said = raw.get("format"), list[str]()
    version = given if type(given) is int else 0
    if version > FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {version}; this refarch reads up to {FORMAT}", "update refarch"
        )
    while version in MIGRATIONS:
        raw, change = MIGRATIONS[version](raw)
        said.append(f"format {version} is read as {version + 1}: {change}")
        version += 1
    if version != FORMAT:
        raise CheckpointError(f"{folder} has no checkpoint format that there was: {given!r:.40}", "use another copy")
    return {**raw, "format": FORMAT}, said


def _from_1(raw: dict[str, Any]) -> tuple[dict[str, Any], str]:
    source = raw.get("source")
    made = {source["distribution"]: source["version"]} if isinstance(source, dict) and source.get("version") else {}
    return {**raw, "versions": made}, "it does not say with which head its base was loaded, nor the head's labels"


_RENAMED = {
    f"refarch.engine.given:{old}": f"refarch.engine.functions.core_techniques:{new}"
    for old, new in (("Update", "PlainUpdate"), ("Tokens", "PlainTokens"), ("KeysAndValues", "PlainKeysAndValues"))
}
"""Where the functions of the core's own techniques were in format 2, and where they are since."""


def _from_2(raw: dict[str, Any]) -> tuple[dict[str, Any], str]:
    return renamed(raw, _RENAMED), "the core's own functions had other import paths"


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Plain data with every string that is one of ``names`` replaced."""
    if isinstance(value, dict):
        return {key: renamed(own, names) for key, own in value.items()}
    if isinstance(value, list):
        return [renamed(own, names) for own in value]
    return names.get(value, value) if isinstance(value, str) else value


MIGRATIONS: dict[int, Callable[[dict[str, Any]], tuple[dict[str, Any], str]]] = {1: _from_1, 2: _from_2}
"""For each older format: its fields as those of the next one, and in words what the next one knows that it does not."""


def refuse_differences(what: str, saved: dict[str, str], here: dict[str, str], where: Any) -> None:
    """Refuse two tables that differ, with the differences.

    Raises:
        CheckpointError: they do.
    """
    if saved == here:
        return
    missing, extra = sorted(saved.keys() - here.keys()), sorted(here.keys() - saved.keys())
    changed = [
        f"{n} ({saved[n]} saved, {here[n]} here)" for n in sorted(saved.keys() & here.keys()) if saved[n] != here[n]
    ]
    parts = [
        f"{label} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for label, names in (("only saved:", missing), ("only here:", extra), ("different:", changed))
        if names
    ]
    raise CheckpointError(f"{where}: {what} do not match: " + "; ".join(parts))
