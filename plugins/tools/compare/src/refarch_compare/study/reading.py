"""A study from its YAML file."""

from __future__ import annotations

import re
from pathlib import Path

from refarch.errors import DataError
from refarch.pipeline import parse_yaml
from refarch_compare.study.spec import StudySpec

FIRST = Path(__file__).with_name("first.yaml")
"""The study that comes along."""


def read_study(path: Path) -> StudySpec:
    """The study in a YAML (or JSON) file; named as the file where it has no name of its own.

    Raises:
        DataError: the file cannot be read, is not YAML, or holds no mapping.
        SpecError: it is no valid study; names each wrong field.
    """
    try:
        data = parse_yaml(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        held = "nothing" if data is None else f"a {type(data).__name__}"
        raise DataError(
            f"{path} holds {held}, but a study is a mapping",
            "its keys are techniques, tasks, backbones, seeds, training, budget and search; refarch compare schema"
            " describes them",
        )
    name = re.sub(r"[^\w.-]+", "-", path.stem) or "study"
    return StudySpec.parse({"name": name, **data}, str(path))
