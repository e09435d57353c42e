"""A library: a folder with one folder an entry.

::

    NAME/entry.json                          what it is and the evidence; all that listing reads
    NAME/README.md                           the model card
    NAME/adaptations/LABEL/adaptation.json   structure, slots, shapes, base, versions
    NAME/adaptations/LABEL/*.safetensors     the values
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import refarch
from refarch.errors import CheckpointError, RefarchError, SaveError, UnknownNameError, UsageError, did_you_mean
from refarch.files import below, open_regular
from refarch_library.entry import FILE, Entry, EntryName, read_entry

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from refarch import Adaptation, Registry

VARIABLE = "REFARCH_LIBRARY"
"""The environment variable that names the library's folder."""
DEFAULT = "library"


class Problem(NamedTuple):
    """An entry that cannot be read."""

    name: str
    reason: str


def default_path() -> Path:
    """The folder of the library that is meant when none is named."""
    return Path(os.environ.get(VARIABLE) or DEFAULT).expanduser()


class Library:
    """The entries in a folder.

    Args:
        path: the folder; made when something is added. :func:`default_path` when left out.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = default_path() if path is None else Path(path).expanduser()

    def names(self) -> list[str]:
        """The names of all entries, whether they can be read or not."""
        if not self.path.is_dir():
            return []
        with os.scandir(self.path) as found:
            names = [item.name for item in found if not item.name.startswith(".") and item.is_dir()]
        return sorted(name for name in names if os.path.exists(os.path.join(self.path, name, FILE)))

    def entries(self) -> tuple[list[Entry], list[Problem]]:
        """All entries by name, and those that cannot be read. Reads no checkpoint."""
        entries, problems = [], []
        for name in self.names():
            try:
                entries.append(self._read(name))
            except RefarchError as error:
                problems.append(Problem(name, " ".join(error.message.split())))
        return entries, problems

    def get(self, name: str) -> Entry:
        """The entry of this name.

        Raises:
            UnknownNameError: there is none.
            CheckpointError: it cannot be read.
        """
        self.require(name)
        return self._read(name)

    def require(self, name: str) -> None:
        """Refuse a name that no entry has.

        Raises:
            UnknownNameError: there is none.
        """
        names = self.names()
        if name not in names:
            raise UnknownNameError(f"the library {self.path} has no entry {name!r}", did_you_mean(name, names))

    def folder(self, entry: Entry) -> Path:
        """Where an entry is."""
        return self.path / entry.name

    def load(
        self, model: PreTrainedModel, name: str, *, any_base: bool = False, registry: Registry | None = None
    ) -> tuple[Adaptation, ...]:
        """Load all adaptations of an entry onto a model, in the order in which its run attached them.

        Raises:
            RefarchError: whatever does not fit, with what differs; the model is then as it was.
        """
        entry = self.get(name)
        folder = self.folder(entry)
        verify(folder, entry)
        return load_parts(model, folder, entry, any_base=any_base, registry=registry)

    def remove(self, name: str) -> None:
        """Delete an entry.

        Raises:
            UnknownNameError: there is none.
            SaveError: it cannot be deleted.
        """
        self.require(name)
        with self.room() as place:
            self._move(self.path / name, place / name)  # gone at once; what a kill leaves is no entry

    @contextlib.contextmanager
    def room(self) -> Iterator[Path]:
        """A new folder within the library's in which an entry is put together; deleted afterwards."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            place = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self.path))
        except OSError as error:
            raise SaveError(
                f"cannot write into {self.path}: {error.strerror or error}", "choose another folder"
            ) from None
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def require_free(self, name: str, replace: bool = False) -> None:
        """Refuse a name that is taken, or is none.

        Raises:
            UsageError: with what to do.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            TypeAdapter(EntryName).validate_python(name)
        except ValidationError:
            raise UsageError(
                f"{name!r} cannot be an entry's name", "use letters, digits, dots, hyphens and underscores"
            ) from None
        if not replace and (self.path / name).exists():
            raise UsageError(f"the library {self.path} has an entry {name!r} already", "give --name, or --replace it")

    def take(self, folder: Path, name: str, replace: bool = False) -> None:
        """Move a finished entry from :meth:`room` to its place, in one step.

        Raises:
            UsageError: the name is taken.
        """
        self.require_free(name, replace)
        target = self.path / name
        if target.exists():
            self._move(target, folder.parent / ".before")
        self._move(folder, target)

    def _move(self, source: Path, target: Path) -> None:
        try:
            os.rename(source, target)
        except OSError as error:
            raise SaveError(f"cannot move {source} to {target}: {error.strerror or error}") from None

    def _read(self, name: str) -> Entry:
        entry = read_entry(self.path / name)
        if entry.name != name:
            raise CheckpointError(
                f"{self.path / name} says that its name is {entry.name!r}", "rename the folder to that"
            )
        return entry


def load_parts(
    model: PreTrainedModel, folder: Path, entry: Entry, *, any_base: bool = False, registry: Registry | None = None
) -> tuple[Adaptation, ...]:
    """Load an entry's adaptations from a folder onto a model, in order, all or none.

    Raises:
        RefarchError: one does not fit; the model is then as it was.
    """
    done = []
    with contextlib.ExitStack() as undo:
        for part in entry.parts:
            done.append(refarch.load(model, below(folder, part.folder), any_base=any_base, registry=registry))
            undo.callback(done[-1].detach)
        undo.pop_all()
    return tuple(done)


def verify(folder: Path, entry: Entry) -> None:
    """Refuse an entry whose files are not those that it was made with.

    Raises:
        CheckpointError: naming the file that is missing, truncated or altered.
    """
    for name, file in entry.files.items():
        found = digest(below(folder, name), file.bytes)
        if found != file.sha256:
            raise CheckpointError(
                f"{folder / name} was truncated or altered: its digest is {found[:12]}, expected {file.sha256[:12]}",
                "pull or add the entry again",
            )
    for part in entry.parts:
        if not any(name.startswith(f"{part.folder}/") for name in entry.files):
            raise CheckpointError(f"{folder} lists no file of its adaptation {part.name!r}", "it was altered")


def digest(path: Path, size: int) -> str:
    """The SHA-256 of an ordinary file.

    Args:
        path: the file.
        size: how long it should be; another one is not read.

    Raises:
        CheckpointError: it cannot be read, or is of another size.
    """
    try:
        with open_regular(path) as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise CheckpointError(f"{path} was truncated or altered: it is {found:,} bytes long, expected {size:,}")
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
