"""Check an entry: its files, what it says about itself against what they hold, and whether it can be used here."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from typing import Literal, NamedTuple

from refarch import Registry, default_registry, engine
from refarch.engine import Checkpoint, migrated
from refarch.errors import RefarchError
from refarch.files import below, inside, read_plain
from refarch.pipeline import differences
from refarch_library.adding import part
from refarch_library.base import load_base
from refarch_library.store import Library, verify

Level = Literal["ok", "note", "problem"]


class Finding(NamedTuple):
    """One thing that checking found."""

    level: Level
    text: str


def check(library: Library, name: str, registry: Registry | None = None) -> list[Finding]:
    """All findings about an entry; nothing is loaded onto a model.

    Raises:
        UnknownNameError: there is no such entry.
    """
    registry = registry or default_registry()
    try:
        entry = library.get(name)
        verify(library.folder(entry), entry)
    except RefarchError as error:
        if name not in library.names():
            raise
        return [Finding("problem", error.message)]
    found = [Finding("ok", f"{len(entry.files)} files are whole and are those that the entry was made with")]
    for item in entry.parts:
        folder = below(library.folder(entry), item.folder)
        try:
            checkpoint, _ = engine.read(folder)
            _, said = migrated(read_plain(inside(folder, "adaptation.json")), folder)
        except RefarchError as error:
            found.append(Finding("problem", error.message))
            continue
        found += [Finding("note", f"{item.name}: {line}") for line in said]
        wrong = differences(item.model_dump(), part(checkpoint, item.folder).model_dump())
        wrong += differences(entry.base.fingerprint.model_dump(), checkpoint.base.model_dump(), "base")
        found += [Finding("problem", f"{item.name}: the entry says otherwise than its checkpoint: {w}") for w in wrong]
        found += _usable(checkpoint, registry)
    return found


def check_loading(library: Library, name: str, registry: Registry | None = None) -> Finding:
    """Whether an entry's adaptations load onto its backbone."""
    registry = registry or default_registry()
    try:
        model, _ = load_base(library.get(name), registry)
        loaded = library.load(model, name, registry=registry)
    except RefarchError as error:
        return Finding("problem", " ".join(str(error).split()))
    return Finding("ok", f"loads onto {type(model).__name__} at {sum(len(a.slot_map) for a in loaded)} places")


def _usable(checkpoint: Checkpoint, registry: Registry) -> Iterator[Finding]:
    """Whether an adaptation can be loaded with what is installed here, and what has changed since it was made."""
    name, saved = checkpoint.name, checkpoint.technique
    try:
        engine.trusted_technique(checkpoint, None, registry)
        registry.backbone(checkpoint.family)
    except RefarchError as error:
        yield Finding("problem", f"{name}: {error.message}")
        return
    yield Finding("ok", f"{name}: technique {saved.name!r} and family {checkpoint.family!r} are installed")
    for distribution, version in checkpoint.versions.items():
        here = _version(distribution)
        if here != version:
            yield Finding("note", f"{name}: made with {distribution} {version}, here it is {here or 'not installed'}")
    here_spec = registry.technique(saved.name)
    modules = {module.function for module in here_spec.modules}
    if modules >= {module.function for module in saved.technique.modules}:
        installed = here_spec.model_dump(include={"options"})
        changed = differences(saved.technique.model_dump(include={"options"}), installed)
        for line in changed[:5]:
            yield Finding("note", f"{name}: the installed technique has other options: {line:.200}")


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
