"""Records for the tests of evidence: whole run folders, made without running anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from refarch import PipelineSpec, RunRecord


@pytest.fixture
def make_run(tmp_path):
    """A function that writes a finished run's folder and returns the path of its record."""

    def make(
        folder,
        technique="lora",
        *,
        options=None,
        score=0.8,
        seed=0,
        backbone="minilm",
        task="lexicon-polarity",
        trainable=10_000,
        **fields,
    ):
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        choices = technique if isinstance(technique, list) else [{"name": technique, "options": options or {}}]
        pipeline = PipelineSpec.parse({"backbone": backbone, "techniques": choices, "task": task, "seed": seed})
        record = RunRecord.parse(
            {
                "pipeline": pipeline.model_dump(),
                "score": score,
                "metric": "accuracy",
                "greater_is_better": True,
                "metrics": {"accuracy": score, "loss": 0.5},
                "baselines": {"majority": 0.5},
                "seeds": {"run": seed, "head": 1, "modules": 2, "data": 3},
                "times": {"load": 1.0, "train": 20.0, "evaluate": 2.0},
                "trainable_parameters": trainable,
                "module_parameters": max(0, trainable - 1_000),
                "total_parameters": 22_700_000,
                "peak_memory_bytes": 10**9,
                "saved_bytes": 4 * trainable,
                "steps": 100,
                "device": "cpu",
                "threads": 1,
                "versions": {"refarch": "0.1.0"},
                "adaptations": [],
                "started": "2026-01-01T00:00:00+00:00",
                "finished": "2026-01-01T00:01:00+00:00",
                **fields,
            }
        )
        (path / "record.json").write_text(record.to_json(), encoding="utf-8")
        return path / "record.json"

    return make
