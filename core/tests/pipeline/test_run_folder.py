"""A run's folder is its pipeline's: the same one resumes, another one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from refarch import PipelineSpec, RunFolder
from refarch.errors import UsageError


def pipeline(**options: object) -> PipelineSpec:
    return PipelineSpec.parse(
        {"backbone": "b", "techniques": ["lora"], "task": {"name": "t", "options": options}, "seed": 1}
    )


def test_the_same_pipeline_resumes_whatever_its_options_are(tmp_path: Path) -> None:
    spec = pipeline(columns=("a", "b"), none=None, number=0.1, nested={"names": ("x",)})
    for _ in range(2):
        RunFolder(tmp_path / "run").claim(spec)


def test_another_pipeline_is_refused_with_what_differs(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").claim(pipeline(columns=("a", "b")))
    with pytest.raises(UsageError, match=r"differs in task.options.columns \(\['a', 'b'\] there, \['a', 'c'\] here\)"):
        RunFolder(tmp_path / "run").claim(pipeline(columns=("a", "c")))
