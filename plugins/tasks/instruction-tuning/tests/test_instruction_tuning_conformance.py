"""The conformance kit for tasks, on local JSONL files of each kind."""

import json
import random
from pathlib import Path
from typing import Any

from refarch_instruction_tuning import PRESETS, SPEC

from refarch.testing import TaskConformance


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def sums(count: int, seed: int = 0) -> list[tuple[str, str]]:
    chance = random.Random(seed)
    return [(f"{a}+{b}", f"{a + b}") for a, b in ((chance.randint(0, 9), chance.randint(0, 9)) for _ in range(count))]


class TestInstructionTuning(TaskConformance):
    task = "instruction-tuning"

    @classmethod
    def prepare(cls, folder: Path) -> dict[str, Any]:
        pairs = sums(40)
        rows = [
            {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
            for asked, answer in pairs
        ]
        return {"train": written(folder / "train.jsonl", rows)}


class TestGsm8k(TaskConformance):
    task = "gsm8k"

    @classmethod
    def prepare(cls, folder: Path) -> dict[str, Any]:
        rows = [{"question": asked, "answer": f"so\n#### {answer}"} for asked, answer in sums(40)]
        return {"train": written(folder / "train.jsonl", rows), "max_answer": 12}


class TestPacking(TaskConformance):
    task = SPEC.model_copy(update={"formulations": SPEC.formulations[:1]})
    options = {"packing": True}

    @classmethod
    def prepare(cls, folder: Path) -> dict[str, Any]:
        rows = [{"prompt": asked, "completion": answer} for asked, answer in sums(40)]
        return {**cls.options, "train": written(folder / "train.jsonl", rows)}


def test_presets_differ_from_the_task_in_their_data_alone():
    assert [preset.name for preset in PRESETS] == ["alpaca", "dolly", "gsm8k", "ultrachat"]
    for preset in PRESETS:
        assert preset.implementation == SPEC.implementation and preset.data_licence and preset.reference
        assert preset.defaults["dataset"] and preset.configure({})["packing"] is False
