"""Read what a task's source options name: files and URLs, or a data set of the ``datasets`` library.

Every split comes as a :class:`~refarch.tasks.tables.Table`, which knows the line of each row for error messages. The
options are :data:`refarch.SOURCE_OPTIONS`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from refarch.errors import DataError, UsageError, did_you_mean
from refarch.tasks.tables import SUFFIXES, Table, read_rows

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
Reader = Callable[[str], Table]
_CONVERSION = "refs/convert/"
"""Revisions of a data set that the hub has made from it."""


@dataclass(frozen=True)
class SourceTables:
    """What the options name.

    Attributes:
        tables: by split; ``train`` is always there, ``validation`` and ``test`` where the source has them.
        features: of a data set, its columns' declared features (a ``ClassLabel`` has ``names``).
    """

    tables: Mapping[str, Table]
    features: Mapping[str, Any] = field(default_factory=dict)

    def label_names(self, column: str) -> list[str] | None:
        """The names that the source declares for a column of class labels (or of lists of them), in the order of their
        numbers.
        """
        feature = self.features.get(column)
        names = getattr(getattr(feature, "feature", feature), "names", None)
        return None if names is None else list(names)


def read_source(
    options: Mapping[str, Any],
    task: str,
    readers: Mapping[str, Reader] | None = None,
    default_id: str | None = None,
) -> SourceTables:
    """Read all splits that the options name. Where an option ``id_column`` names a column, each row has an identifier
    of its own there.

    Where ``train`` names a file, files are read even if a data set is named too: a preset's default, whose names of
    splits and configuration then do not count.

    Args:
        options: values of :data:`refarch.SOURCE_OPTIONS`.
        task: the task's name, for messages.
        readers: for suffixes (``.json``, ``.conll``) that need a reader of the task's own.
        default_id: a column of identifiers that a table may lack, which one that a user names may not.

    Raises:
        UsageError: neither ``train`` nor ``dataset`` is set, or a configuration is without a data set.
        DataError: a file or data set is missing or malformed, or two rows have one identifier; names the file and the
            line.
    """
    source, column = _source(options, task, readers or {}), options.get("id_column")
    for table in source.tables.values():
        if column is not None and (column in table.columns or column != default_id):
            require_unique(table, column)
    return source


def _source(options: Mapping[str, Any], task: str, readers: Mapping[str, Reader]) -> SourceTables:
    named = {part: options[part] for part in SPLITS if options[part] is not None}
    if options["dataset"] is not None:
        files = {part: path for part, path in named.items() if _is_file(path, readers)}
        if "train" not in files:
            return _from_datasets(options)
        logger.info("reading the files that are named, and not the data set %s", options["dataset"])
        return SourceTables({part: _read(path, readers) for part, path in files.items()})
    if options["train"] is None:
        raise UsageError(
            f"task {task!r} has no data",
            "set train to a file (.csv, .tsv, .jsonl, .json, .parquet), or dataset to a name for datasets.load_dataset",
        )
    if options["config"] is not None:
        raise UsageError("config belongs to a dataset, but the data are files", "set dataset, or leave config out")
    return SourceTables({part: _read(path, readers) for part, path in named.items()})


def _is_file(path: str, readers: Mapping[str, Reader]) -> bool:
    """Whether it is the name of a file, and not of a data set's split."""
    return PurePosixPath(path).suffix.lower() in (*SUFFIXES, *readers)


def _read(path: str, readers: Mapping[str, Reader]) -> Table:
    reader = readers.get(PurePosixPath(path).suffix.lower())
    return reader(path) if reader else read_rows(path)


def _from_datasets(options: Mapping[str, Any]) -> SourceTables:
    loaded = load_dataset(options["dataset"], options["config"])
    tables: dict[str, Table] = {}
    features: Mapping[str, Any] = {}
    for part in SPLITS:
        split = _split_name(part, options, loaded)
        if split is None:
            continue
        data = loaded[split]
        columns = {name: data[name][:] for name in data.column_names}
        tables[part] = Table(f"{options['dataset']}[{split}]", columns, range(1, len(data) + 1), unit="row")
        if not len(data):
            raise DataError(f"{tables[part].path} has no rows", "name another split")
        if part == "train":
            features = dict(data.features)
    return SourceTables(tables, features)


def _split_name(part: str, options: Mapping[str, Any], loaded: Mapping[str, Any]) -> str | None:
    wanted: str | None = options[part]
    taken = {options[other] for other in SPLITS}  # a split that is named for one part is not another's by default
    if wanted is None and (part == "train" or (part in loaded and part not in taken)):
        wanted = part
    if wanted is not None and wanted not in loaded:
        raise DataError(f"dataset {options['dataset']!r} has no split {wanted!r}", did_you_mean(wanted, loaded))
    return wanted


def load_dataset(name: str, config: str | None) -> Mapping[str, Any]:
    """The splits of a data set by name: from the hub, a folder of files, or a folder that ``save_to_disk`` wrote.

    Args:
        name: ``owner/name``, with ``@revision`` for a branch or commit: data sets that are a script on the hub's main
            branch can be loaded from its own conversion, ``@refs/convert/parquet``.
        config: the configuration, where there are several; in a conversion, these are its folders.

    Raises:
        DataError: it cannot be loaded, or the ``datasets`` library is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"dataset {name!r} needs the datasets library: {error}", "pip install datasets") from None
    folder = Path(name).expanduser()
    try:
        if folder.is_dir():
            loaded = _local_dataset(datasets, folder, config)
        else:
            bare, _, revision = name.partition("@")
            where = {"data_dir" if revision.startswith(_CONVERSION) else "name": config}
            loaded = datasets.load_dataset(bare, revision=revision or None, **where)
    except Exception as error:  # the library raises what its readers, the network and the hub raise
        raise DataError(
            f"dataset {name!r} cannot be loaded: {type(error).__name__}: {error}",
            "check the name and config; give a local copy's folder with dataset=FOLDER, or files: train=... test=...",
        ) from error
    return loaded if isinstance(loaded, Mapping) else {"train": loaded}


def _local_dataset(datasets: Any, folder: Path, config: str | None) -> Any:
    """A folder's data. A configuration is what the folder declares under that name, or a folder of its own inside it;
    a folder that has neither holds that one configuration.
    """
    inner = folder / config if config else folder
    folder = inner if inner.is_dir() else folder
    if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
        return datasets.load_from_disk(str(folder))
    declared = datasets.get_dataset_config_names(str(folder)) if config and folder != inner else []
    return datasets.load_dataset(str(folder), config if config in declared else None)


def require_unique(table: Table, column: str) -> None:
    """Refuse a table in which a row has no identifier, or two rows have one.

    Raises:
        DataError: with the place, or the places of both.
    """
    first: dict[Any, int] = {}
    for index, value in enumerate(table.column(column)):
        if value is None or (isinstance(value, str) and not value.strip()):
            raise DataError(f"{table.where(index)}: no identifier in column {column!r}", "fill it in")
        if not isinstance(value, Hashable):
            raise DataError(
                f"{table.where(index)}: an identifier is text or a number, but column {column!r} has {shown(value)}",
                "choose another id_column",
            )
        if value in first:
            raise DataError(
                f"{table.where(index)}: {column} {value!r} stands already at {table.where(first[value])}",
                "give each row an identifier of its own, or remove the duplicate",
            )
        first[value] = index


def text_of(table: Table, index: int, column: str, blank: bool = False) -> str:
    """The text of a row's column.

    Args:
        table: the rows.
        index: of the row.
        column: must be in the table.
        blank: whether it may be empty.

    Raises:
        DataError: it is missing, or is no text; with the line.
    """
    value = table.value(index, column)
    if value is None or (isinstance(value, str) and not value.strip() and not blank):
        raise DataError(f"{table.where(index)}: no text in column {column!r}", "fill it in or remove the row")
    if not isinstance(value, str):
        raise DataError(
            f"{table.where(index)}: column {column!r} should hold text, but has {shown(value)}",
            "choose another column",
        )
    return value


def shown(value: Any) -> str:
    """A value for a message, cut short."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
