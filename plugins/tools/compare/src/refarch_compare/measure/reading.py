"""The runs that are to be measured, and whether names exist. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refarch import Registry, RunRecord
from refarch.architecture import BackboneChoice
from refarch.errors import RefarchError
from refarch.files import read_json
from refarch.plugins import locate
from refarch_compare import naming
from refarch_compare.evidence.reading import RECORD
from refarch_compare.evidence.store import Problem, records


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    record: RunRecord

    @property
    def label(self) -> str:
        """Its techniques' labels."""
        return "+".join(choice.label or choice.name for choice in self.record.pipeline.techniques)

    @property
    def place(self) -> str:
        """Its task on its backbone."""
        return text_of([self.record.pipeline.task.model_dump(), self.record.pipeline.backbone.model_dump()])


def read_runs(roots: Sequence[Path]) -> tuple[list[Run], list[Problem]]:
    """The finished runs below some folders, and the records that cannot be read. Imported records are passed over.

    Raises:
        DataError: a folder does not exist.
    """
    found: list[Run] = []
    problems: list[Problem] = []
    for path in records(roots):
        if path.name != RECORD:
            continue
        try:
            found.append(Run(path.parent, RunRecord.parse(read_json(path), str(path))))
        except RefarchError as error:
            problems.append(Problem(str(path), " ".join(error.message.split())))
    return found, problems


def require(techniques: Sequence[str], backbone: str, task: str | None, registry: Registry) -> None:
    """Refuse names that are none, before anything heavy is loaded for the others.

    Raises:
        UsageError: an unknown technique or task, a wrong option, a backbone's folder that does not exist.
    """
    for name in techniques:
        naming.parse(name, registry)
    locate(BackboneChoice.parse({"name": backbone}, "--backbone"), registry)
    if task is not None:
        registry.task(task)


def text_of(value: Any) -> str:
    """Plain data as a key."""
    return json.dumps(value, sort_keys=True, default=repr)
