"""Atomic writes: a file is there whole or not at all, whatever kills the process. And locks that die with it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from refarch.errors import BusyError, CheckpointError, SaveError

DEEPEST = 64
"""How deep a JSON file may be nested."""


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
        CheckpointError: it is missing, no ordinary file, too large or not JSON.
    """
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            size = path.stat().st_size
            raise CheckpointError(f"{path} is {size} bytes long; such a file has at most {limit}")
        return json.loads(data.decode("utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except RecursionError:
        raise CheckpointError(f"{path} is not valid: it is nested too deeply", "use another copy") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}", "it may be truncated; use another copy") from None


def read_plain(path: Path, limit: int = 16 * 2**20) -> Any:
    """Read a JSON file that others may have made to do harm: :func:`read_json`, and nothing in what it returns is too
    deep to walk through or too large to compute with.

    Raises:
        CheckpointError: as :func:`read_json`; or it is nested more than 64 deep, or holds a number that is not finite
            or has more than 64 bits.
    """
    found = read_json(path, limit)
    level, depth = [found], 0
    while level:
        if depth > DEEPEST:
            raise CheckpointError(f"{path} is not valid: it is nested more than {DEEPEST} deep", "use another copy")
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
            elif not _ordinary(item):
                raise CheckpointError(
                    f"{path} is not valid: it holds a number that is out of range", "use another copy"
                )
        level, depth = inner, depth + 1
    return found


def _ordinary(value: Any) -> bool:
    if isinstance(value, int):
        return -(2**64) < value < 2**64
    return not isinstance(value, float) or math.isfinite(value)


def open_regular(path: Path) -> BufferedReader:
    """Open an ordinary file for reading: not a pipe that never answers, nor a device that never ends.

    Raises:
        OSError: it cannot be opened.
        CheckpointError: it is no ordinary file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise CheckpointError(f"{path} is no ordinary file", "the checkpoint was altered")
    return os.fdopen(handle, "rb")


def inside(folder: Path, name: str) -> Path:
    """The path of a file named in a checkpoint, which must lie in its folder.

    Raises:
        CheckpointError: the name climbs out of the folder, or the file is a link that does.
    """
    if not name or name in (".", "..") or Path(name).name != name or "\\" in name or not name.isprintable():
        raise CheckpointError(f"{folder}: the file name {name!r} leads out of the folder", "the checkpoint was altered")
    path = folder / name
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(
            f"{folder}: the file {name!r} is a link that leads out of the folder",
            "if you trust where it leads, copy the folder with its links followed: cp -rL FROM TO",
        )
    return path


def below(folder: Path, name: str) -> Path:
    """The path of a file or folder named in a file, at any depth below ``folder``: ``adaptations/lora``.

    Raises:
        CheckpointError: the name climbs out of the folder, or something on the way is a link that does.
    """
    path = folder
    for part in name.split("/"):
        path = inside(path, part)
    return path


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
