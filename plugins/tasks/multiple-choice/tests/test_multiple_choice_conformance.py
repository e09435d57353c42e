"""The conformance kit for tasks, on a local file whose questions have from two to four choices."""

import json
from pathlib import Path
from typing import Any

from refarch.testing import TaskConformance

WORDS = ("fish", "bread", "rice", "soup")
ROWS = [
    {
        "question": f"what has {WORDS[right]} {number}?",
        "choices": [f"a {word}" for word in WORDS[:count]],
        "answer": right,
    }
    for number in range(20)
    for count in (2 + number % 3,)
    for right in range(count)
]


def written(path: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return str(path)


class TestMultipleChoice(TaskConformance):
    task = "multiple-choice"

    @classmethod
    def prepare(cls, folder: Path) -> dict[str, Any]:
        # the kit's tokenizer allows 48 tokens in all
        return {"train": written(folder / "rows.jsonl"), "max_choice": 8}
