"""What a word on the command line means: an entry of the library, or a folder that holds one or a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from refarch import Registry
from refarch.architecture import BackboneChoice
from refarch.engine import ADAPTATION_FILE
from refarch.errors import UnknownNameError, UsageError, did_you_mean
from refarch.plugins import locate
from refarch_library.adding import describe, finished
from refarch_library.entry import FILE, Entry, read_entry
from refarch_library.store import Library, verify


class Found(NamedTuple):
    """An entry and where its files are."""

    entry: Entry
    folder: Path


def find(text: str, library: Library) -> Found:
    """The entry of a name, the one in a folder, or the one that a finished run would be. Its files are verified.

    Raises:
        UnknownNameError: there is no such entry, and no such folder.
        UsageError: the folder holds neither.
        CheckpointError: its files are damaged.
    """
    folder = place(text, library)
    if not (folder / FILE).is_file():
        return Found(describe(folder), folder)
    entry = library.get(text) if folder == library.path / text else read_entry(folder)
    verify(folder, entry)
    return Found(entry, folder)


def place(text: str, library: Library) -> Path:
    """The folder that a word means. Its tensors are not looked at, so commands ask this of every word before torch.

    Raises:
        UnknownNameError: there is no such entry, and no such folder.
        UsageError: the folder holds neither an entry nor a finished run.
    """
    names, folder = library.names(), Path(text).expanduser()
    if text in names:
        return library.path / text
    if (folder / FILE).is_file():
        return folder
    if not folder.is_dir():
        raise UnknownNameError(
            f"the library {library.path} has no entry {text!r}, and there is no such folder", did_you_mean(text, names)
        )
    if (folder / ADAPTATION_FILE).is_file():
        raise UsageError(
            f"{folder} holds an adaptation alone, which says nothing of the task that it was trained on",
            "give the run's folder, or an entry's",
        )
    finished(folder)
    return folder


def require_some(entries: Sequence[object]) -> None:
    """Refuse to work on nothing.

    Raises:
        UsageError: there is no entry.
    """
    if not entries:
        raise UsageError("there is no entry to score", "add a run: refarch library add runs/first")


def require_backbone(name: str | None, registry: Registry) -> None:
    """Refuse what can be no backbone by its name; None, and a hub id, are asked later.

    Raises:
        UsageError: it is a family, or a path that does not exist.
    """
    if name is not None:
        locate(BackboneChoice.parse({"name": name}, "the backbone"), registry)
