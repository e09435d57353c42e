"""Read tables from files, with the line of every row, so that an error can say where it is. Needs no heavy library.

The format follows from the suffix: ``.csv``, ``.tsv``, ``.jsonl`` (or ``.ndjson``), ``.json`` (an array of objects) and
``.parquet``. A path with a scheme (``s3://bucket/train.csv``) is read through fsspec.
"""

from __future__ import annotations

import codecs
import csv
import importlib
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from refarch.errors import DataError, did_you_mean, nearest
from refarch.tasks.json_text import parse_lines, parse_list

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
"""The formats that :func:`read_rows` reads."""
_FIELD_LIMIT = 2**31 - 1  # characters; the csv module's own 131,072 is less than a long document has
_FIELD_LIMIT_LOCK = threading.Lock()  # the limit is global to the csv module


@dataclass(frozen=True)
class Table:
    """The rows of a file, by column.

    Attributes:
        path: as the user gave it.
        columns: each column's values; strings in CSV and TSV, whatever the format holds in JSON and parquet (None
            where a row of JSON lacks the column).
        lines: where each row starts, counted from 1.
        unit: what ``lines`` counts: ``line``, or ``row`` where a file has no lines.
    """

    path: str
    columns: dict[str, list[Any]]
    lines: Sequence[int]
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, index: int) -> str:
        """The place of a row, for a message: ``train.csv, line 7``."""
        return f"{self.path}, {self.unit} {self.lines[index]}"

    def column(self, name: str) -> list[Any]:
        """The values of a column, or of a field inside one: ``translation.en``, ``choices.text``.

        Raises:
            DataError: there is no such column; the nearest names are given.
        """
        if name in self.columns:
            return self.columns[name]
        return [self.value(index, name) for index in range(len(self))]

    def value(self, index: int, name: str) -> Any:
        """One row's value of a column, or of a field inside one; of a list of objects, the list of their fields.

        Raises:
            DataError: as :meth:`column`; with the line where it is this row that lacks the field.
        """
        if name in self.columns:
            return self.columns[name][index]
        column, _, path = name.partition(".")
        if not path or column not in self.columns:
            raise self._missing(name)
        value = self.columns[column][index]
        for key in path.split("."):
            try:
                if isinstance(value, (list, tuple)):
                    value = [item[key] for item in value]
                elif value is not None:
                    value = value[key]
            except (KeyError, TypeError):
                inner = value if isinstance(value, (list, tuple)) else [value]
                has = dict.fromkeys(name for item in inner if isinstance(item, dict) for name in item)
                raise DataError(
                    f"{self.where(index)}: column {column!r} holds nothing named {key!r}", did_you_mean(key, has)
                ) from None
        return value

    def _missing(self, name: str) -> DataError:
        hint = did_you_mean(name, self.columns)
        only = next(iter(self.columns)) if len(self.columns) == 1 else ""
        separator = next((mark for mark in (";", "\t", "|") if mark in only), None)
        if separator is not None:
            hint = f"the separator seems to be {separator!r}; write CSV with commas, or TSV (.tsv) with tabs"
        return DataError(f"{self.path} has no column {name!r}; it has {', '.join(map(repr, self.columns))}", hint)


def read_rows(path: str | Path) -> Table:
    """Read a table.

    CSV is as in RFC 4180, with a header. TSV has a header too; quotes in it are ordinary characters. JSONL has one
    object a line, JSON one array of objects. Empty lines are skipped. Text is UTF-8, with or without a byte-order mark.

    Args:
        path: of a local file, or a URL that fsspec can open.

    Raises:
        DataError: the file is missing, unreadable, empty, malformed or not UTF-8, or its suffix is unknown; says where
            and what to do.
    """
    name = str(path)
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in _READERS:
        raise DataError(
            f"{name}: the suffix {suffix!r} tells no format that can be read" if suffix else f"{name} has no suffix",
            f"use a file that ends in {', '.join(_READERS)}",
        )
    data = read_bytes(name)
    if not data.strip():
        raise DataError(f"{name} is empty", "give a file with at least one row")
    table = _READERS[suffix](name, data)
    if not len(table):
        raise DataError(f"{name} has no rows", "give a file with at least one row")
    return table


def read_bytes(path: str | Path) -> bytes:
    """The content of a local file or of a URL.

    Raises:
        DataError: it is missing or cannot be read.
    """
    name = str(path)
    try:
        if "://" in name:
            with _need("fsspec", "reading a URL").open(name, "rb") as file:
                return bytes(file.read())
        return Path(name).expanduser().read_bytes()
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{name} does not exist", _neighbours(name)) from None
    except ImportError as error:  # fsspec names the package that a scheme needs
        raise DataError(f"{name} cannot be read: {error}", "install what the scheme of the URL needs") from error
    except OSError as error:
        raise DataError(
            f"{name} cannot be read: {error.strerror or error}", "check the path and your rights"
        ) from error
    except Exception as error:  # each file system behind fsspec has errors of its own
        raise DataError(f"{name} cannot be read: {type(error).__name__}: {error}", "check the URL") from error


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file; a byte-order mark is dropped.

    Raises:
        DataError: it is missing, cannot be read or is not UTF-8; says at which line and byte.
    """
    return _decode(str(path), read_bytes(path))


def _decode(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]  # without the byte-order mark, if there was one
        offset = len(data) - len(error.object)
        raise DataError(
            f"{name}, line {before.count(10) + 1}: byte {error.start + offset + 1} of the file"
            f" (0x{error.object[error.start]:02x}) is not UTF-8",
            f"convert the file: iconv -f {_encoding(data)} -t UTF-8 (or whatever encoding it has)",
        ) from None


def _encoding(data: bytes) -> str:
    """What text that is not UTF-8 is likely to be."""
    return "UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "WINDOWS-1252"


def _csv(name: str, data: bytes) -> Table:
    reader = csv.reader(io.StringIO(_decode(name, data), newline=""), strict=True)
    return _delimited(name, reader, "quote a field that holds a comma, a quote (doubled) or a line break")


def _tsv(name: str, data: bytes) -> Table:
    reader = csv.reader(io.StringIO(_decode(name, data), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    return _delimited(name, reader, "separate fields by one tab; a field may hold neither tab nor line break")


def _delimited(name: str, reader: Any, hint: str) -> Table:
    with _long_fields():
        records = _records(name, reader, hint)
        first_line, header = next(records)
        columns = [field.strip() for field in header]
        twice = sorted({field for field in columns if columns.count(field) > 1})
        if twice:
            raise DataError(
                f"{name}, line {first_line}: the header has {twice[0]!r} twice", "rename one of the columns"
            )
        values: list[list[str]] = [[] for _ in columns]
        lines: list[int] = []
        for line, record in records:
            if len(record) != len(columns):
                raise DataError(f"{name}, line {line}: {len(record)} fields, but the header has {len(columns)}", hint)
            lines.append(line)
            for column, field in zip(values, record, strict=True):
                column.append(field)
    return Table(name, dict(zip(columns, values, strict=True)), lines)


def _records(name: str, reader: Any, hint: str) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not an empty line, with the line where it starts."""
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{name}, line {line}: {error}", hint) from None
        if record:
            yield line, record


@contextmanager
def _long_fields() -> Iterator[None]:
    with _FIELD_LIMIT_LOCK:
        before = csv.field_size_limit(_FIELD_LIMIT)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _jsonl(name: str, data: bytes) -> Table:
    return _objects(name, *parse_lines(name, _decode(name, data)))


def _json(name: str, data: bytes) -> Table:
    return _objects(name, *parse_list(name, _decode(name, data)))


def _objects(name: str, rows: list[Any], lines: list[int]) -> Table:
    for row, line in zip(rows, lines, strict=True):
        if not isinstance(row, dict):
            raise DataError(
                f"{name}, line {line}: expected an object, but got {type(row).__name__}", 'write {"column": value, ...}'
            )
    names = dict.fromkeys(key for row in rows for key in row)
    return Table(name, {key: [row.get(key) for row in rows] for key in names}, lines)


def _parquet(name: str, data: bytes) -> Table:
    parquet = _need("pyarrow.parquet", "reading parquet")
    try:
        table = parquet.read_table(io.BytesIO(data))
    except (ValueError, OSError, KeyError) as error:  # pyarrow's errors are subclasses of these
        raise DataError(
            f"{name} is not a readable parquet file: {error}", "it may be truncated; copy it again"
        ) from None
    columns = {
        column: _values(name, column, stored) for column, stored in zip(table.column_names, table.columns, strict=True)
    }
    return Table(name, columns, range(1, table.num_rows + 1), unit="row")


def _values(name: str, column: str, stored: Any) -> list[Any]:
    """A parquet column's values; its texts are bytes that nobody has checked yet."""
    values: list[Any] = []
    try:
        for value in stored:
            values.append(value.as_py())
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}, row {len(values) + 1}: column {column!r} holds text that is not UTF-8"
            f" (0x{error.object[error.start]:02x})",
            "write the file again from its source, with texts in UTF-8",
        ) from None
    return values


def _need(module: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise DataError(f"{what} needs {package}: {error}", f"pip install {package}") from None


def _neighbours(name: str) -> str:
    """A hint naming files like the missing one in its folder."""
    path = Path(name).expanduser()
    if "://" in name or not path.parent.is_dir():
        return "check the path"
    close = nearest(path.name, (item.name for item in path.parent.iterdir()))
    return (
        "did you mean " + " or ".join(repr(str(path.with_name(item))) for item in close) + "?"
        if close
        else ("check the path")
    )


_READERS: dict[str, Callable[[str, bytes], Table]] = dict(
    zip(SUFFIXES, (_csv, _tsv, _jsonl, _jsonl, _json, _parquet), strict=True)
)
