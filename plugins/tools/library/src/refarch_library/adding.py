"""Make an entry from a finished run's folder."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from refarch import RunFolder, RunRecord, engine
from refarch.engine import ADAPTATION_FILE, Checkpoint
from refarch.errors import CheckpointError, UsageError
from refarch.files import below, inside, write_text
from refarch_library.card import card
from refarch_library.entry import FILE, Base, Entry, File, Part
from refarch_library.store import Library, digest, verify

README = "README.md"


def add(
    library: Library,
    run: Path,
    *,
    name: str | None = None,
    licence: str = "",
    description: str = "",
    replace: bool = False,
) -> Entry:
    """Add what a run has trained, after reading all of it.

    Args:
        library: where to.
        run: the folder of a finished run.
        name: the entry's; made from task, backbone, techniques and seed when left out.
        licence: under which the modules may be used.
        description: a sentence for people.
        replace: take the place of an entry of that name.

    Raises:
        UsageError: it is no finished run, or the name is taken.
        CheckpointError: what it saved was damaged since.
    """
    name = name or default_name(finished(run))
    library.require_free(name, replace)
    entry = describe(run, name=name, licence=licence, description=description)
    with library.room() as room:
        place = room / entry.name
        for file in entry.files:
            target = below(place, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(below(run, file), target)
        verify(place, entry)
        write_text(place / README, card(entry))
        write_text(place / FILE, entry.to_json())
        library.take(place, entry.name, replace)
    return entry


def describe(run: Path, *, name: str | None = None, licence: str = "", description: str = "") -> Entry:
    """The entry that a run would be, with its files where they are; all of them are read. See :func:`add`."""
    record = finished(run)
    files: dict[str, File] = {}
    parts, checkpoints = [], []
    for own in record.adaptations:
        folder = below(run, own)
        checkpoint, _ = engine.read(folder)  # of the face: what asks for no tensors loads no torch
        parts.append(part(checkpoint, own))
        checkpoints.append(checkpoint)
        for file in (ADAPTATION_FILE, checkpoint.tensors):
            files[f"{own}/{file}"] = described(inside(folder, file))
    found = {
        "name": name or default_name(record),
        "description": description,
        "licence": licence,
        "base": base(record, checkpoints),
        "parts": tuple(parts),
        "record": record,
        "files": files,
    }
    return Entry.parse(found, f"the entry of {run}")


def finished(run: Path) -> RunRecord:
    """The record of a run.

    Raises:
        UsageError: it is none, it is not finished, or it saved nothing.
    """
    record = RunFolder(run, writes=False).finished() if run.is_dir() else None
    if record is None:
        if (run / "pipeline.json").is_file():
            raise UsageError(
                f"the run in {run} is not finished", f"resume it: refarch run {run}/pipeline.json --out {run}"
            )
        raise UsageError(f"{run} holds no run", "give the folder of a finished run, such as runs/first")
    if not record.adaptations:
        raise UsageError(f"the run in {run} has saved no adaptation", "run it again")
    return record


def part(checkpoint: Checkpoint, folder: str) -> Part:
    """What an entry says about one adaptation."""
    technique = checkpoint.technique.technique
    slots = dict.fromkeys(slot for module in technique.modules for slot in module.workspace)
    found = {
        "name": checkpoint.name,
        "folder": folder,
        "technique": technique.name,
        "workspace": tuple(slots),
        "insertions": len(checkpoint.slot_map),
        "parameters": sum(math.prod(shape) for shape in checkpoint.shapes.values()),
        "head": checkpoint.train_head,
        "distribution": checkpoint.source.distribution,
        "version": checkpoint.source.version,
    }
    return Part.parse(found, f"adaptation {checkpoint.name!r}")


def base(record: RunRecord, checkpoints: list[Checkpoint]) -> Base:
    """What an entry says about its backbone.

    Raises:
        CheckpointError: the adaptations are of different backbones.
    """
    first = checkpoints[0]
    for other in checkpoints[1:]:
        reason = first.base.differs(other.base)
        if reason:
            raise CheckpointError(f"{first.name!r} and {other.name!r} are adaptations of different backbones: {reason}")
    return Base(
        name=record.pipeline.backbone.name,
        family=first.family,
        auto_class=first.auto_class,
        labels=first.labels,
        fingerprint=first.base,
    )


def described(path: Path) -> File:
    """A file's length and digest."""
    size = path.stat().st_size
    return File(bytes=size, sha256=digest(path, size))


def default_name(record: RunRecord) -> str:
    """``lora-lexicon-polarity-minilm-seed0``."""
    pipeline = record.pipeline
    words = ["+".join(choice.label or choice.name for choice in pipeline.techniques), pipeline.task.name]
    words += [Path(pipeline.backbone.name).name, f"seed{pipeline.seed}"]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(words)).strip("-._")[:120]


def local_paths(entry: Entry) -> Mapping[str, str]:
    """What an entry says that names a place on the machine that made it, by where it says so."""
    pipeline = entry.record.pipeline
    named = {"backbone": pipeline.backbone.name, **{f"task.{k}": v for k, v in pipeline.task.options.items()}}
    return {
        where: value
        for where, value in named.items()
        if isinstance(value, str) and (value.startswith(("/", "~", "./", "../")) or Path(value).is_absolute())
    }
