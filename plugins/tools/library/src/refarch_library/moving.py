"""Share entries: copy them to and from another folder, a Hugging Face hub repository, or whatever fsspec reaches.

What comes in is not believed: names, sizes and digests are checked while it is copied, then everything is read, and
only then does it become an entry. Nothing of it is executed.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from refarch import engine
from refarch.errors import CheckpointError, RefarchError, RunError, UsageError
from refarch.files import below, open_regular, write_text
from refarch.pipeline import differences
from refarch_library.adding import README, part
from refarch_library.card import card
from refarch_library.entry import FILE, LIMIT, Entry, File, read_entry
from refarch_library.store import Library, verify

HUB = "hf"
BLOCK = 2**20
Progress = Callable[[str, int], None]
"""Gets a file's name and the number of its bytes that were just copied."""


class Place(NamedTuple):
    """A folder somewhere."""

    url: str
    system: Any
    path: str

    def of(self, name: str) -> str:
        """The path of a file in it."""
        return f"{self.path.rstrip('/')}/{name}"


def place(url: str) -> Place:
    """Where a URL leads: ``hf://owner/name``, ``s3://bucket/folder`` ..., or a local path.

    Raises:
        UsageError: nothing installed here reaches it.
    """
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(
            f"{url!r} cannot be reached: {error}", "give a folder, hf://OWNER/NAME, or a URL that fsspec knows"
        ) from None
    return Place(url, system, path)


def pull(
    library: Library,
    source: str,
    *,
    name: str | None = None,
    replace: bool = False,
    progress: Progress = lambda name, size: None,
) -> Entry:
    """Copy an entry from elsewhere into a library.

    Args:
        library: where to.
        source: a folder that holds an entry, by path or URL.
        name: what it is to be called here; its own name when left out.
        replace: take the place of an entry of that name.
        progress: is told of what was copied.

    Raises:
        CheckpointError: what is there is damaged, or is no entry; the library is as it was.
        UsageError: it cannot be reached, or the name is taken.
        RunError: copying failed.
    """
    there = place(source)
    with library.room() as room:
        _copy(there, FILE, room / FILE, None, progress)
        entry = read_entry(room)
        name = name or entry.name
        library.require_free(name, replace)
        _require_space(library, entry)
        target = room / name
        for path, file in entry.files.items():
            _copy(there, path, below(target, path), file, progress)
        verify(target, entry)
        _compare(target, entry)
        entry = entry.model_copy(update={"name": name})
        write_text(target / README, card(entry))
        write_text(target / FILE, entry.to_json())
        library.take(target, name, replace)
    return entry


def push(
    library: Library, name: str, target: str, *, replace: bool = False, private: bool = True, message: str = ""
) -> str:
    """Copy an entry to elsewhere, its description last.

    Args:
        library: where it is.
        name: the entry's.
        target: a folder, by path or URL; ``hf://OWNER/NAME`` is made if need be.
        replace: overwrite an entry that is there.
        private: of a hub repository that is made: whether others can see it.
        message: of the commit to a hub repository.

    Returns:
        Where it is now.

    Raises:
        CheckpointError: the entry is damaged.
        UsageError: there is an entry already, or the place cannot be reached.
        RunError: copying failed.
    """
    entry = library.get(name)
    folder = library.folder(entry)
    verify(folder, entry)
    there = place(target)
    with _explained(target):
        if not replace and there.system.exists(there.of(FILE)):
            raise UsageError(f"{target} holds an entry already", "choose another place, or --replace it")
        names = [*entry.files, README, FILE]
        if HUB in _protocols(there.system):
            return _push_to_hub(folder, names, target, private, message or f"Add {name}")
        for path in names:
            there.system.makedirs(there.of(path).rpartition("/")[0], exist_ok=True)
            there.system.put_file(str(folder / path), there.of(path))
    return target


def _push_to_hub(folder: Path, names: list[str], target: str, private: bool, message: str) -> str:
    """In one commit."""
    from huggingface_hub import HfApi

    repository, revision, inner = hub_place(target)
    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    done = api.upload_folder(
        repo_id=repository,
        folder_path=str(folder),
        path_in_repo=inner or None,
        revision=revision,
        allow_patterns=names,
        commit_message=message,
    )
    return str(getattr(done, "commit_url", done))


def hub_place(url: str) -> tuple[str, str | None, str]:
    """Repository, revision and folder of ``hf://owner/name@revision/folder``.

    Raises:
        UsageError: it has no owner and name.
    """
    owner, _, rest = url.partition("://")[2].partition("/")
    name, _, inner = rest.partition("/")
    name, _, revision = name.partition("@")
    if not owner or not name or owner in ("datasets", "spaces", "models"):
        raise UsageError(f"{url!r} names no model repository", "write hf://OWNER/NAME")
    return f"{owner}/{name}", revision or None, inner.strip("/")


def _protocols(system: Any) -> tuple[str, ...]:
    found = system.protocol
    return (found,) if isinstance(found, str) else tuple(found)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Say in plain words that a place failed: its library raises whatever the network and the server do."""
    try:
        yield
    except RefarchError:
        raise
    except Exception as error:
        raise RunError(
            f"{url} failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
            "is there an entry of a library? Check the address, the network and your right to use it (hf auth login)",
        ) from error


def _open(there: Place, name: str) -> IO[bytes]:
    if isinstance(there.system, LocalFileSystem):
        return open_regular(below(Path(there.path), name))
    return there.system.open(there.of(name), "rb")


def _copy(there: Place, name: str, target: Path, file: File | None, progress: Progress) -> None:
    """Copy one file, no more of it than was announced."""
    most, size, hash_ = LIMIT if file is None else file.bytes, 0, hashlib.sha256()
    with _explained(there.url), _open(there, name) as source:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as sink:
            while block := source.read(min(BLOCK, most + 1 - size)):
                size += len(block)
                hash_.update(block)
                if size > most:
                    raise CheckpointError(f"{there.of(name)} is longer than the {most:,} bytes that it may have")
                sink.write(block)
                progress(name, len(block))
    if file is not None and (size, hash_.hexdigest()) != (file.bytes, file.sha256):
        raise CheckpointError(
            f"{there.of(name)} was truncated or altered: {size:,} bytes of digest {hash_.hexdigest()[:12]}, expected"
            f" {file.bytes:,} of {file.sha256[:12]}",
            "use another copy of the entry",
        )


def _require_space(library: Library, entry: Entry) -> None:
    wanted, free = sum(file.bytes for file in entry.files.values()), shutil.disk_usage(library.path).free
    if wanted > free:
        raise CheckpointError(
            f"the entry says that it is {wanted:,} bytes long, and {library.path} has room for {free:,}",
            "free some space, or choose another library",
        )


def _compare(folder: Path, entry: Entry) -> None:
    """Read everything, and refuse an entry that says otherwise than its checkpoints."""
    for item in entry.parts:
        checkpoint, _ = engine.read(below(folder, item.folder))
        wrong = differences(item.model_dump(), part(checkpoint, item.folder).model_dump())
        wrong += differences(entry.base.fingerprint.model_dump(), checkpoint.base.model_dump(), "base")
        if wrong:
            raise CheckpointError(
                f"the entry says otherwise than its checkpoint {item.name!r}: {'; '.join(wrong[:3]):.400}",
                "it was altered; use another copy",
            )
