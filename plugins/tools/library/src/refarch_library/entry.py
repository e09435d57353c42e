"""What an entry says about itself: ``entry.json``, all that listing and searching read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from refarch import RunRecord
from refarch.architecture import Spec
from refarch.engine import Fingerprint
from refarch.errors import CheckpointError, SpecError
from refarch.files import inside, read_plain

FORMAT = 1
FILE = "entry.json"
LIMIT = 4 * 2**20
"""Bytes of ``entry.json``."""
PARTS = "adaptations"
"""The folder of an entry's adaptations."""
EntryName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$")]
"""Letters, digits, dots, hyphens and underscores: a folder's name on every system."""
FilePath = Annotated[str, StringConstraints(pattern=rf"^{PARTS}/[A-Za-z0-9._-]{{1,120}}/[A-Za-z0-9._-]{{1,120}}$")]
"""A file of an entry, relative to its folder."""


class File(Spec):
    """A file of an entry."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Part(Spec):
    """One of an entry's adaptations; its own ``adaptation.json`` says the rest."""

    name: str
    folder: str = Field(pattern=rf"^{PARTS}/[A-Za-z0-9._-]{{1,120}}$")
    technique: str
    workspace: tuple[str, ...]
    """The slots of all of its modules."""
    insertions: int
    """At how many places of the model it works."""
    parameters: int
    """How many numbers it holds, its head included."""
    head: bool
    """Whether a head was trained along."""
    distribution: str = ""
    version: str = ""


class Base(Spec):
    """The backbone that an entry belongs to."""

    name: str
    """As the run named it: an installed model, a hub id, or a folder on the machine that trained it."""
    family: str
    auto_class: str
    labels: dict[int, str] = {}
    fingerprint: Fingerprint

    @property
    def short(self) -> str:
        """The name for a table."""
        return Path(self.name).name


class Entry(Spec):
    """An entry of a library: the adaptations of one run, with the run's evidence."""

    format: int = FORMAT
    name: EntryName
    description: str = ""
    licence: str = ""
    """Of the modules; an SPDX identifier. Empty where nobody said."""
    base: Base
    parts: tuple[Part, ...] = Field(min_length=1)
    record: RunRecord
    """What the run left: its whole pipeline, its score, its seeds, what it took."""
    files: dict[FilePath, File]
    """All files of the adaptations."""

    @property
    def label(self) -> str:
        """Its techniques."""
        return "+".join(part.technique for part in self.parts)

    @property
    def task(self) -> str:
        """The task that it was trained on."""
        return self.record.pipeline.task.name

    @property
    def parameters(self) -> int:
        """How many numbers all of it holds."""
        return sum(part.parameters for part in self.parts)


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""For each older format: its fields as those of the next one."""


def read_entry(folder: Path) -> Entry:
    """Read an entry's description.

    Raises:
        CheckpointError: it is missing, was altered, or is of a format that this version does not read.
    """
    if not (folder / FILE).is_file():
        raise CheckpointError(f"{folder} holds no {FILE}", "give the folder of a library's entry")
    return parse_entry(read_plain(inside(folder, FILE), LIMIT), str(folder / FILE))


def parse_entry(raw: Any, where: str) -> Entry:
    """An entry from plain data of any format.

    Raises:
        CheckpointError: it is none, or of a format that this version does not read.
    """
    version = raw.get("format") if isinstance(raw, dict) else None
    if type(version) is int and version > FORMAT:
        raise CheckpointError(f"{where} has format {version}; this version reads up to {FORMAT}", "update it")
    while type(version) is int and version in MIGRATIONS:
        raw, version = MIGRATIONS[version](raw), version + 1
    if version != FORMAT:
        raise CheckpointError(f"{where} is no description of an entry", "it was altered; use another copy")
    try:
        return Entry.parse({**raw, "format": FORMAT}, where)
    except SpecError as error:
        raise CheckpointError(error.message, error.hint) from None
