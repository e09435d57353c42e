"""What a word on the command line means: an entry of the library, or a folder that holds one or a run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from refarch.errors import UnknownNameError, UsageError, did_you_mean
from refarch_library.adding import describe
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
    names, folder = library.names(), Path(text).expanduser()
    if text in names:
        found = Found(library.get(text), library.path / text)
        verify(found.folder, found.entry)
        return found
    if (folder / FILE).is_file():
        found = Found(read_entry(folder), folder)
        verify(folder, found.entry)
        return found
    if folder.is_dir():
        if (folder / "adaptation.json").is_file():
            raise UsageError(
                f"{folder} holds an adaptation alone, which says nothing of the task that it was trained on",
                "give the run's folder, or an entry's",
            )
        return Found(describe(folder), folder)
    raise UnknownNameError(
        f"the library {library.path} has no entry {text!r}, and there is no such folder", did_you_mean(text, names)
    )
