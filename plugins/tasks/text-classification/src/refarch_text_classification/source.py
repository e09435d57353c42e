"""Read a corpus from files, or through the ``datasets`` library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refarch.errors import DataError, UsageError, did_you_mean
from refarch.pipeline.files import Table, read_rows
from refarch_text_classification.examples import Corpus, Examples, from_table

_SPLITS = ("train", "validation", "test")


def read_corpus(options: Mapping[str, Any]) -> Corpus:
    """Read what the options of the task name.

    Raises:
        UsageError: neither ``train`` nor ``dataset`` is set.
        DataError: a file or data set is missing or does not fit.
    """
    if options["dataset"] is not None:
        return _from_datasets(options)
    if options["train"] is None:
        raise UsageError(
            "task 'text-classification' has no data",
            "set train to a file (.csv, .tsv, .jsonl, .parquet), or dataset to a name for datasets.load_dataset",
        )
    if options["config"] is not None:
        raise UsageError("config belongs to a dataset, but the data are files", "set dataset, or leave config out")
    parts = {
        name: from_table(read_rows(options[name]), options["text_column"], options["label_column"])
        for name in _SPLITS
        if options[name] is not None
    }
    return Corpus(parts["train"], parts.get("validation"), parts.get("test"))


def _from_datasets(options: Mapping[str, Any]) -> Corpus:
    loaded = _load(options["dataset"], options["config"])
    label = options["label_column"]
    chosen = {name: _split_name(options[name], name, loaded, options["dataset"]) for name in _SPLITS}
    parts: dict[str, Examples] = {}
    names: Sequence[str] | None = None
    for part, split in chosen.items():
        if split is None:
            continue
        data = loaded[split]
        columns = {name: data[name][:] for name in data.column_names if name in (options["text_column"], label)}
        known = {**{name: [] for name in data.column_names}, **columns}  # all names, for the hint at a misspelt one
        table = Table(f"{options['dataset']}[{split}]", known, range(1, len(data) + 1), unit="row")
        if part == "train":
            names = getattr(data.features.get(label), "names", None)  # of a ClassLabel
        parts[part] = from_table(table, options["text_column"], label, names)
    return Corpus(parts["train"], parts.get("validation"), parts.get("test"), names)


def _split_name(wanted: str | None, part: str, loaded: Mapping[str, Any], source: str) -> str | None:
    if wanted is None:
        if part in loaded:
            return part
        if part != "train":
            return None
        wanted = part
    if wanted not in loaded:
        raise DataError(f"dataset {source!r} has no split {wanted!r}", did_you_mean(wanted, loaded))
    return wanted


def _load(name: str, config: str | None) -> Mapping[str, Any]:
    import datasets

    folder = Path(name).expanduser()
    saved = any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))
    try:
        if saved:
            loaded = datasets.load_from_disk(str(folder))
        else:
            loaded = datasets.load_dataset(str(folder) if folder.exists() else name, config)
    except Exception as error:  # the library raises what its readers, the network and the hub raise
        raise DataError(
            f"dataset {name!r} cannot be loaded: {type(error).__name__}: {error}",
            "check the name and config, or give files: train=... test=...",
        ) from error
    return loaded if isinstance(loaded, Mapping) else {"train": loaded}
