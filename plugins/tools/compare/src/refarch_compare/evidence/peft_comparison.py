"""Import peft's published method comparison: result files of ``method_comparison`` in huggingface/peft (Apache-2.0).

Known limits, which every record's provenance repeats: one seed, one GPU, budgets not matched, learning rates mostly not
searched; the checkpoint of some methods includes frozen random factors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from refarch.errors import DataError, RefarchError
from refarch.files import read_json, write_text
from refarch_compare.evidence import peft_methods
from refarch_compare.evidence.reading import SUFFIX
from refarch_compare.evidence.row import IMPORTED, Row
from refarch_compare.evidence.store import Problem

NAME = "peft-method-comparison"
ORIGIN = f"{IMPORTED}: peft method comparison"
LIMITS = "one seed, one GPU, budgets not matched; saved bytes may include frozen random factors"


class TaskName(NamedTuple):
    """A task of the comparison."""

    name: str
    metric: str


TASKS = {
    "test accuracy": TaskName("MetaMathQA", "accuracy"),
    "test dino_similarity": TaskName("image-gen", "dino_similarity"),
}
"""By the test metric of a result's last line. MetaMathQA trains on it and tests on GSM8K."""
LAST = {"train loss": "train loss", "forgetting": "forgetting", "drift": "drift", "train total tokens": "train tokens"}
"""Figures of the last line that become measures."""
SPLITS = {"train": "train", "valid": "validation", "test": "test"}
"""What the names of figures begin with, and the split that they are of."""
BOOKKEEPING = (("train", "samples"), ("train", "time"), ("train", "total tokens"))


@dataclass
class Imported:
    """What an import brought in."""

    written: list[Path] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    """Of each label: why it has no technique here, or what differs."""


def import_results(folder: Path, out: Path) -> Imported:
    """Write a record for every result file below ``folder``, and its curve beside it.

    Args:
        folder: ``MetaMathQA``, ``image-gen``, or any folder above them.
        out: the records are written below it, in a folder of their own.

    Raises:
        DataError: there is no result file; those that are malformed or failed are named in ``problems``.
    """
    found = Imported()
    for path in sorted(folder.rglob("*.json")):
        try:
            data = read_json(path)
            if not isinstance(data, dict) or not {"run_info", "train_info"} <= data.keys():
                continue
            row, note = row_of(data, path)
            target = out / NAME / row.task / f"{path.stem}{SUFFIX}"
            write_text(target, row.model_dump_json(indent=2, exclude={"path"}))
            write_text(curve_path(target), "".join(json.dumps(line) + "\n" for line in _curve(data)))
        except (RefarchError, KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            reason = error.message if isinstance(error, RefarchError) else f"{type(error).__name__}: {error}"
            found.problems.append(Problem(str(path), reason))
            continue
        found.written.append(target)
        found.rows.append(row)
        if note:
            found.notes[f"{row.task} {row.name}"] = note
    if not found.rows:
        named = "; ".join(f"{item.path}: {item.reason}" for item in found.problems[:3])
        raise DataError(
            f"there is no result of peft's method comparison below {folder}" + (f" ({named})" if named else ""),
            "give the folder that holds MetaMathQA and image-gen, as in method_comparison of huggingface/peft",
        )
    return found


def row_of(data: Mapping[str, Any], path: Path) -> tuple[Row, str]:
    """A result file's content as a row, and a note on how it was matched.

    Raises:
        DataError: the run did not succeed, or its metric or backbone is unknown.
        KeyError: a field that every result has is missing.
    """
    run, trained, meta = data["run_info"], data["train_info"], data.get("meta_info") or {}
    training = run["train_config"]
    if trained["status"] != "success":
        raise DataError(
            f"{path}: the run ended with status {trained['status']!r}: {run.get('error_msg') or 'no reason'}"
        )
    last = trained["metrics"][-1]
    metric = next((name for name in TASKS if name in last), None)
    if metric is None:
        raise DataError(f"{path}: the last line of its metrics has none of {', '.join(TASKS)}")
    hub_id = training["model_id"]
    if hub_id not in peft_methods.MODELS:
        raise DataError(f"{path}: the backbone {hub_id!r} is not in the importer's table of models")
    model = peft_methods.MODELS[hub_id]
    matched = peft_methods.match(run["peft_config"], training, model)
    lost = [f"{name} is {last[key]}" for key, name in LAST.items() if key in last and not _is_number(last[key])]
    steps = int(last["step"])
    row = Row(
        technique=matched.technique,
        label=_label(run["experiment_name"], model),
        options=matched.options,
        backbone=hub_id,
        family=model.family,
        task=TASKS[metric].name,
        metric=TASKS[metric].metric,
        score=last[metric],
        seed=training["seed"],
        trainable_parameters=trained["num_trainable_params"],
        module_parameters=trained["num_trainable_params"],
        total_parameters=model.parameters,
        saved_bytes=trained["file_size"],
        peak_memory_bytes=trained["accelerator_memory_max"],
        train_seconds=trained["train_time"],
        seconds_per_step=trained["train_time"] / steps,
        device=(meta.get("system_info") or {}).get("accelerator"),
        steps=steps,
        learning_rate=training["optimizer_kwargs"]["lr"],
        batch_size=training["batch_size"],
        measures=_measures(trained, last),
        origin=ORIGIN,
        provenance=_provenance(run, meta, path, [model.note, matched.note, *lost]),
    )
    return row, matched.note


def curve_path(record: Path) -> Path:
    """Where the curve of an imported record is: lines like those of a run's ``metrics.jsonl``."""
    return record.with_name(record.name.removesuffix(SUFFIX) + ".metrics.jsonl")


def _label(experiment: str, model: peft_methods.Model) -> str:
    method, _, setting = experiment.partition("/")
    setting = setting.removeprefix(model.prefix).strip("-")
    return f"{method} {setting}" if setting and setting != "default" else method


def _measures(trained: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, float]:
    measures = {name: float(last[key]) for key, name in LAST.items() if _is_number(last.get(key))}
    measures["published total parameters"] = float(trained["num_total_params"])
    measures["mean memory bytes"] = float(trained["accelerator_memory_reserved_avg"])
    measures["99th percentile memory bytes"] = float(trained["accelerator_memory_reserved_99th"])
    return measures


def _provenance(run: Mapping[str, Any], meta: Mapping[str, Any], path: Path, notes: list[str]) -> str:
    packages = meta.get("package_info") or {}
    names = ("peft", "transformers", "torch")
    versions = [f"{name} {packages[f'{name}-version']}" for name in names if packages.get(f"{name}-version")]
    commit = packages.get("peft-commit-hash")
    revision = (meta.get("model_info") or {}).get("sha")
    parts = [
        f"huggingface/peft method comparison (Apache-2.0), {path.parent.name}/{path.name}, run {run['created_at']}",
        ", ".join(versions) + (f" (peft commit {commit[:10]})" if commit else ""),
        f"model revision {revision[:10]}" if revision else "",
        LIMITS,
        *notes,
    ]
    return "; ".join(part for part in parts if part)


def _curve(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The metrics as a run logs them: a line a split, ``valid accuracy`` being the accuracy on validation."""
    for line in data["train_info"]["metrics"]:
        by_split: dict[str, dict[str, float]] = {}
        for name, value in line.items():
            word, _, metric = name.partition(" ")
            if word in SPLITS and _is_number(value) and (word, metric) not in BOOKKEEPING:
                by_split.setdefault(SPLITS[word], {})[metric] = value
        seconds = {"seconds": line["elapsed time"]} if _is_number(line.get("elapsed time")) else {}
        for split, values in by_split.items():
            yield {"step": line["step"], "split": split, **seconds, **values}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
