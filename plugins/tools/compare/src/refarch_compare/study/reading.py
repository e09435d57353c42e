"""A study from its YAML file."""

from __future__ import annotations

import re
from pathlib import Path

from refarch.pipeline import read_mapping
from refarch_compare.study.spec import StudySpec

KEYS = (
    "its keys are techniques, tasks, backbones, seeds, training, budget and search; refarch compare schema describes"
    " them"
)
FIRST = Path(__file__).with_name("first.yaml")
"""The study that comes along."""


def read_study(path: Path) -> StudySpec:
    """The study in a YAML (or JSON) file; named as the file where it has no name of its own.

    Raises:
        DataError: the file cannot be read, is not YAML, or holds no mapping.
        SpecError: it is no valid study; names each wrong field.
    """
    data = read_mapping(path, "a study", KEYS)
    name = re.sub(r"[^\w.-]+", "-", path.stem) or "study"
    return StudySpec.parse({"name": name, **data}, str(path))
