"""The conformance kit for tasks, on a local JSONL file, in every formulation."""

import json
from pathlib import Path
from typing import Any

from refarch.testing import TaskConformance


def rows(count: int = 60) -> list[dict[str, Any]]:
    """Questions whose answer is a word of the text, each with a text of its own."""
    made = []
    for i in range(count):
        name, colour = ("ann", "bob", "cy")[i % 3], ("red", "blue", "green")[i // 3 % 3]
        context = f"no {i}. the car of {name} is {colour}. it is old."
        answers = {"text": [colour], "answer_start": [context.index(colour)]}
        made.append({"id": str(i), "question": f"what colour is {name}'s car?", "context": context, "answers": answers})
    return made


class TestQuestionAnswering(TaskConformance):
    task = "question-answering"

    @classmethod
    def prepare(cls, folder: Path) -> dict[str, Any]:
        path = folder / "train.jsonl"
        path.write_text("\n".join(map(json.dumps, rows())), encoding="utf-8")
        return {"train": str(path), "max_answer": 8}
