"""Atomic writes: a file is there whole or not at all, whatever kills the process. And locks that die with it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from refarch.errors import BusyError, CheckpointError, SaveError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk and rename it to ``path``.

    Raises:
        SaveError: the disk is full, the folder is not writable ...; what stood at ``path`` is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise SaveError(
            f"could not write {path}: {error.strerror or error}",
            "free some space or choose another folder; what was saved there before is untouched",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_atomically(path, lambda temporary: _write(temporary, text.encode()))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    write_atomically(path, lambda temporary: _write(temporary, data))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@contextlib.contextmanager
def locked(path: Path, what: str, hint: str | None = None) -> Iterator[None]:
    """Hold a lock file while inside; the system lets go of it when the process dies, whatever kills it.

    Args:
        path: made if need be, and left there.
        what: what the lock is for, for the message: "runs in runs/first".
        hint: what to do if it is taken.

    Raises:
        BusyError: another process (or this one, elsewhere) holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(f"another process {what}", hint) from None
        yield


def read_json(path: Path, limit: int = 16 * 2**20) -> Any:
    """Read a JSON file of at most ``limit`` bytes.

    Raises:
        CheckpointError: it is missing, too large or not JSON.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise CheckpointError(f"{path} is {size} bytes long; such a file has at most {limit}")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}", "it may be truncated; use another copy") from None


def inside(folder: Path, name: str) -> Path:
    """The path of a file named in a checkpoint, which must lie in its folder.

    Raises:
        CheckpointError: the name climbs out of the folder.
    """
    if not name or name in (".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise CheckpointError(f"{folder}: the file name {name!r} leads out of the folder", "the checkpoint was altered")
    return folder / name


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets a folder be flushed
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
